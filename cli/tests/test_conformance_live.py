"""The kit, `patchbay send` and the sandbox against a running gateway: what holds in process also holds on the wire."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from patchbay import conformance, main, sending
from providers import registry
from providers.conformance import variants
from providers.provider import Provider
from sandbox.signing import fetches_keys
from sandbox.variants import first_fixture

pytestmark = pytest.mark.integration

SENDERS = [
    (provider, choice)
    for provider in registry.all_providers()
    if provider.manifest.webhook
    for choice in variants(provider)
]


def named(senders: list[tuple[Provider, dict[str, str]]]) -> pytest.MarkDecorator:
    """Parametrise a test over providers under one choice of their schemes each."""
    ids = ["-".join([provider.slug, *choice.values()]) for provider, choice in senders]
    return pytest.mark.parametrize(("provider", "choice"), senders, ids=ids)


PLAIN = next(
    one
    for one in registry.all_providers()
    if one.manifest.webhook
    and one.traits(variants(one)[0])
    and not variants(one)[0]
    and not fetches_keys(one)
    and "{url}" in one.signature().model_dump_json()
)


def order(endpoint: Any, **more: Any) -> dict[str, Any]:
    common = {"provider": endpoint.provider.slug, "url": endpoint.url, "registered_url": endpoint.registered_url}
    return common | {"secret": endpoint.keys.signing, "options": dict(endpoint.options)} | more


@named(SENDERS)
def test_a_running_gateway_conforms(platform: Any, provider: Provider, choice: dict[str, str]) -> None:
    endpoint = platform.connect(provider, choice)
    target = conformance.Target(endpoint.url, endpoint.url, endpoint.keys.signing, endpoint.options)
    results = list(conformance.live(provider, target))
    assert [one.detail for one in results if one.outcome == "failed"] == []
    passed = {one.case for one in results if one.outcome == "passed"}
    if fetches_keys(provider, endpoint.options):
        # Nobody but the vendor can sign: the sandbox plays these, below.
        assert passed == set()
    else:
        assert passed >= {"accept", "missing_signature"}


@named(SENDERS)
def test_the_gateway_takes_what_the_sandbox_sends_and_refuses_what_it_forges(
    platform: Any, provider: Provider, choice: dict[str, str]
) -> None:
    endpoint = platform.connect(provider, choice, public="https://hooks.example.com")
    found = platform.control("handshakes", order(endpoint))
    assert found["ok"], found
    fixture = first_fixture(provider, endpoint.options).name
    (genuine,) = platform.control("deliveries", order(endpoint, fixture=fixture, fresh="-live"))["items"]
    assert genuine["state"] == "delivered", genuine
    traits = provider.traits(endpoint.options)
    if traits is not None and traits.authenticated:
        forged = order(endpoint, fixture=fixture, fresh="-forged", tamper="signature")
        (refused,) = platform.control("deliveries", forged)["items"]
        assert [one["status"] for one in refused["attempts"]] == [provider.webhook.refused_status]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


def test_the_command_tries_a_deployment_behind_another_name(
    platform: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    endpoint = platform.connect(PLAIN, {}, public="https://hooks.example.com")
    arguments = ["conformance", "--provider", PLAIN.slug, "--url", endpoint.url, "--json"]
    file = tmp_path / "secret"
    file.write_text(f"{endpoint.keys.signing}\n")
    by_file = [*arguments, "--registered-url", endpoint.registered_url, "--secret-file", str(file)]
    assert run(monkeypatch, *by_file) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["failed"] == 0
    assert found["passed"] >= 10
    # Without the registered address the signatures are for another one.
    monkeypatch.setenv("PATCHBAY_WEBHOOK_SECRET", endpoint.keys.signing)
    assert run(monkeypatch, *arguments) == 1
    told = capsys.readouterr()
    failed = [one["case"] for one in json.loads(told.out)["cases"] if one["outcome"] == "failed"]
    assert "accept" in failed
    assert endpoint.keys.signing not in told.out + told.err


def test_a_secret_that_the_endpoint_does_not_have_is_found_out(platform: Any) -> None:
    endpoint = platform.connect(PLAIN, {})
    other = PLAIN.verifier().generate()
    results = conformance.live(PLAIN, conformance.Target(endpoint.url, endpoint.url, other.signing))
    failed = [one.detail for one in results if one.outcome == "failed"]
    wanted, refused = PLAIN.webhook.success_status, PLAIN.webhook.refused_status
    assert failed[0].startswith(f"accept: answered {refused}, expected {wanted}")


@named([one for one in SENDERS if fetches_keys(*one)])
def test_send_goes_through_the_sandbox_where_keys_are_fetched(
    platform: Any, provider: Provider, choice: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_URL", platform.sandbox)
    monkeypatch.setenv("PATCHBAY_TOKEN", "test-token")
    endpoint = platform.connect(provider, choice)
    fixture = first_fixture(provider, endpoint.options).name
    fresh = f"-{uuid.uuid4().hex[:8]}"
    # The endpoint's own secret is what an operator has: the receiver's identity at the vendor.
    genuine = sending.Order(
        provider.slug, endpoint.url, endpoint.keys.verifying, fixture, fresh=fresh, options=endpoint.options
    )
    assert [status for status, _ in sending.send(genuine)] == [provider.webhook.success_status]


def test_an_endpoint_to_which_nothing_can_be_sent_is_no_success(
    platform: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    provider, choice = next(one for one in SENDERS if fetches_keys(*one) and not one[1])
    endpoint = platform.connect(provider, choice)
    monkeypatch.setenv("PATCHBAY_WEBHOOK_SECRET", endpoint.keys.signing)
    assert run(monkeypatch, "conformance", "--provider", provider.slug, "--url", endpoint.url) == 1
    assert "no case could be sent" in capsys.readouterr().err
