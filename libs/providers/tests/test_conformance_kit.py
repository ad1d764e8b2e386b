"""The kit finds what it is there to find: a receiver that is wrong in one way fails the case of that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from providers import conformance, registry
from providers.conformance import Case, Exemption
from providers.manifest import HmacSignature
from providers.provider import Provider
from providers.sdk import InboundRequest, Refused, Verified

# Any folder with the ordinary scheme: an HMAC over body and time in a header.
PROVIDER = next(
    (
        provider
        for provider in registry.all_providers()
        if provider.manifest.webhook is not None
        and isinstance(provider.webhook.signature, HmacSignature)
        and provider.webhook.signature.elements is not None
        and provider.webhook.signature.tolerance_s is not None
    ),
    None,
)
needs_provider = pytest.mark.skipif(PROVIDER is None, reason="no folder with a listed header and a window is left")


class Wrong:
    """A verifier that is right but for one thing."""

    def __init__(self, right: Any, wrong: Callable[..., Verified]) -> None:
        self._right = right
        self._wrong = wrong

    def __getattr__(self, name: str) -> Any:
        return getattr(self._right, name)

    def verify(self, request: InboundRequest, secrets: Any, now: Any) -> Verified:
        return self._wrong(self._right, request, secrets, now)


def believes_everything(*_: Any) -> Verified:
    return Verified("k", None, ())


def ignores_time(right: Any, request: Any, secrets: Any, now: Any) -> Verified:
    try:
        found: Verified = right.verify(request, secrets, now)
    except Refused as refused:
        if refused.reason not in {"stale_timestamp", "future_timestamp"}:
            raise
        return Verified("k", None, ())
    return found


def knows_one_secret(right: Any, request: Any, secrets: Any, now: Any) -> Verified:
    found: Verified = right.verify(request, secrets[:1], now)
    return found


def takes_the_first_of_repeated_headers(right: Any, request: Any, secrets: Any, now: Any) -> Verified:
    headers = {name: values[:1] for name, values in request.headers.items()}
    found: Verified = right.verify(replace(request, headers=headers), secrets, now)
    return found


def reserialises(right: Any, request: Any, secrets: Any, now: Any) -> Verified:
    found: Verified = right.verify(replace(request, body=b" ".join(request.body.split())), secrets, now)
    return found


def failures(wrong: Callable[..., Verified], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    assert PROVIDER is not None
    provider = Provider(PROVIDER.folder, PROVIDER.manifest)
    cases = [case for case in conformance.cases(provider) if isinstance(case, Case)]
    verifier = Wrong(provider.verifier(), wrong)
    monkeypatch.setattr(provider, "verifier", lambda _options=None: verifier)
    found = {case.name: conformance.failure(case, provider) for case in cases}
    return {name for name, text in found.items() if text is not None}


@needs_provider
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (ignores_time, {"stale", "future"}),
        (knows_one_secret, {"old_key_in_overlap", "new_key_in_overlap"}),
        (takes_the_first_of_repeated_headers, {"duplicated_signature"}),
    ],
)
def test_one_mistake_fails_its_cases_and_no_other(
    wrong: Callable[..., Verified], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = failures(wrong, monkeypatch)
    assert found <= expected
    assert found


@needs_provider
def test_believing_everything_fails_every_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(believes_everything, monkeypatch) >= {
        "wrong_key",
        "no_secret",
        "stale",
        "future",
        "tampered_body",
        "truncated_body",
        "extended_body",
        "reserialised_body",
        "truncated_signature",
        "extended_signature",
        "non_ascii_signature",
        "undecodable_signature",
        "missing_signature",
        "duplicated_signature",
        "shadowed_signature",
    }


@needs_provider
def test_a_body_in_other_bytes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "extended_body" in failures(reserialises, monkeypatch)


@needs_provider
def test_cases_are_requests_for_the_address_and_key_that_were_given() -> None:
    assert PROVIDER is not None
    keys = PROVIDER.verifier().generate()
    url = "https://live.example.com/hooks/token"
    cases = [one for one in conformance.cases(PROVIDER, keys=keys, url=url) if isinstance(one, Case)]
    assert {case.request.url for case in cases} == {url}
    live = {case.name for case in cases if case.live}
    assert {"accept", "wrong_key", "stale", "tampered_body"} <= live
    # Cases that need another configuration than the endpoint's cannot be sent to it.
    assert not live & {"no_secret", "old_key_in_overlap", "new_key_in_overlap"}


def test_every_folder_has_cases_or_says_why_not() -> None:
    for provider in registry.all_providers():
        if provider.manifest.webhook is None:
            continue
        found = list(conformance.cases(provider, conformance.variants(provider)[0]))
        names = {one.name for one in found}
        assert {"accept", "stale", "future", "tampered_body"} <= names or any(
            isinstance(one, Exemption) and one.name.startswith("all") for one in found
        ), provider.slug
