from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchbay import main
from patchbay.connections import secrets_of
from providers import registry
from providers.provider import Provider

Asked = list[tuple[str, str, Any]]


def _provider(*, webhooks: bool, secrets: int) -> Provider:
    """Return a provider whose first way to authenticate takes so many secrets, none of which verifies deliveries."""
    for one in registry.all_providers():
        manifest = one.manifest
        if manifest.api is None or (manifest.webhook is not None) != webhooks:
            continue
        names = manifest.api.method().secret_names()
        shared = manifest.webhook is not None and manifest.webhook.secret in names
        if len(names) == secrets and not shared:
            return one
    raise AssertionError("no such provider")


PLAIN = _provider(webhooks=False, secrets=1)
SENDER = _provider(webhooks=True, secrets=1)
NAME = secrets_of(PLAIN, "", webhooks=True)[0]
SHOWN: dict[str, Any] = {
    "id": "c1",
    "provider": PLAIN.slug,
    "tenant": "t1",
    "account_ref": "a1",
    "mode": "sandbox",
    "method": next(iter(PLAIN.api.auth)),
    "state": "paused",
    "reason": "paused by an operator",
    "missing_scopes": ["write"],
    "secrets": [NAME],
    "version": 4,
}


class Worker:
    """Answers like the sync worker, and what it was asked."""

    def __init__(self) -> None:
        self.asked: Asked = []
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("POST", "/v1/connections/c1/authorize"): (200, {"authorize_url": "https://vendor.test/grant?state=s"}),
            ("POST", "/v1/connections/c1/test"): (200, {"outcome": "success", "status": 200, "mode": "sandbox"}),
            ("PUT", "/v1/connections/c1/credentials"): (200, SHOWN | {"credentials": {NAME: 2}}),
            ("POST", "/v1/connections/c1/credentials/rotate"): (
                200,
                SHOWN | {"credentials": {NAME: 2}, "draining_until": "2026-11-21T12:01:00Z"},
            ),
            ("GET", "/v1/connections/c1/credentials"): (
                200,
                {
                    "items": [
                        {"kind": NAME, "version": 2, "state": "active"},
                        {"kind": NAME, "version": 1, "state": "revoked"},
                    ]
                },
            ),
            ("DELETE", "/v1/connections/c1"): (204, None),
            ("POST", "/v1/connections"): (
                201,
                SHOWN | {"state": "authorizing", "endpoints": [{"id": "ep1", "url": "https://gateway.test/hooks/x"}]},
            ),
        }

    def __call__(self, method: str, path: str, _body: Any) -> tuple[int, Any]:
        default = (200, {"items": [SHOWN]} if "?" in path else SHOWN)
        return self.answers.get((method, path), default)


@pytest.fixture
def service(serve_as: Callable[..., Asked]) -> Worker:
    worker = Worker()
    worker.asked = serve_as("SYNC_URL", worker)
    return worker


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", "connections", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "case",
    [
        (("list", "--mode", "sandbox"), ("GET", "/v1/connections?mode=sandbox&limit=50", None), "c1"),
        (("show", "c1"), ("GET", "/v1/connections/c1", None), "missing_scopes"),
        (("authorize", "c1"), ("POST", "/v1/connections/c1/authorize", {}), "https://vendor.test/grant?state=s"),
        (
            ("authorize", "c1", "--scope", "read", "--scope", "write"),
            ("POST", "/v1/connections/c1/authorize", {"scopes": ["read", "write"]}),
            "grant",
        ),
        (("test", "c1"), ("POST", "/v1/connections/c1/test", {}), "success, status 200 (sandbox)"),
        (("pause", "c1"), ("PATCH", "/v1/connections/c1", {"paused": True}), "c1 is paused"),
        (("resume", "c1"), ("PATCH", "/v1/connections/c1", {"paused": False}), "c1 is"),
        (("credentials", "c1"), ("GET", "/v1/connections/c1/credentials", None), "revoked"),
        (("revoke", "c1", "--yes"), ("DELETE", "/v1/connections/c1", None), "c1 is revoked"),
    ],
)
def test_a_command_asks_the_service_and_prints_its_answer(
    service: Worker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[tuple[str, ...], tuple[str, str, Any], str],
) -> None:
    arguments, asked, printed = case
    assert run(monkeypatch, *arguments) == 0
    assert service.asked == [asked]
    assert printed in capsys.readouterr().out


def test_secrets_come_from_files_and_the_environment_and_are_not_printed(
    service: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    of_api, of_webhooks = secrets_of(SENDER, "", webhooks=True)
    file = tmp_path / "key"
    file.write_text("canary-file\n")
    monkeypatch.setenv(f"PATCHBAY_SECRET_{of_webhooks.upper()}", "canary-environment")
    arguments = ("create", SENDER.slug, "--tenant", "t1", "--mode", "sandbox", "--option", "region=eu")
    assert run(monkeypatch, *arguments, "--secret-file", f"{of_api}={file}") == 0
    (_, path, body), printed = service.asked[0], capsys.readouterr()
    assert path == "/v1/connections"
    assert body["secrets"] == {of_api: "canary-file", of_webhooks: "canary-environment"}
    assert (body["mode"], body["options"], body["lane"]) == ("sandbox", {"region": "eu"}, "standard")
    assert "canary" not in printed.out + printed.err
    assert "https://gateway.test/hooks/x" in printed.out
    assert "connections authorize c1" in printed.out


def test_without_a_terminal_the_variables_of_all_missing_secrets_are_named(
    service: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert run(monkeypatch, "create", SENDER.slug, "--tenant", "t1") == 1
    told = capsys.readouterr().err
    for name in secrets_of(SENDER, "", webhooks=True):
        assert f"PATCHBAY_SECRET_{name.upper()}" in told
    assert run(monkeypatch, "revoke", "c1") == 1
    assert "Give --yes" in capsys.readouterr().err
    assert service.asked == []


def test_at_a_terminal_a_secret_is_asked_for(service: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("typer.prompt", lambda text, *, hide_input: f"typed for {text}" if hide_input else "")
    assert run(monkeypatch, "create", SENDER.slug, "--tenant", "t1") == 0
    wanted = {name: f"typed for Secret {name}" for name in secrets_of(SENDER, "", webhooks=True)}
    assert service.asked[0][2]["secrets"] == wanted


def test_without_webhooks_their_secret_is_not_asked_for() -> None:
    for provider in registry.all_providers():
        manifest = provider.manifest
        if manifest.api is None or manifest.webhook is None or not manifest.webhook.secret:
            continue
        for_calls = set(manifest.api.method().secret_names())
        for_calls |= {name for name, one in manifest.secrets.items() if one.required and "api" in one.use}
        required = {name for name, one in manifest.secrets.items() if one.required}
        assert set(secrets_of(provider, "", webhooks=False)) == for_calls
        assert set(secrets_of(provider, "", webhooks=True)) == for_calls | required | {manifest.webhook.secret}


@pytest.mark.parametrize(
    ("option", "asked"),
    [
        ((), ("POST", "/v1/connections/c1/credentials/rotate")),
        (("--at-once",), ("PUT", "/v1/connections/c1/credentials")),
    ],
)
def test_a_rotation_sends_the_only_secret(
    service: Worker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: tuple[str, ...],
    asked: tuple[str, str],
) -> None:
    monkeypatch.setenv(f"PATCHBAY_SECRET_{NAME.upper()}", "canary-new")
    assert run(monkeypatch, "rotate", "c1", *option) == 0
    assert [(method, path) for method, path, _ in service.asked] == [("GET", "/v1/connections/c1"), asked]
    assert service.asked[1][2] == {"secrets": {NAME: "canary-new"}}
    printed = capsys.readouterr().out
    assert f"{NAME} is version 2" in printed
    assert ("until 2026-11-21T12:01:00Z" in printed) == (not option)
    assert "canary" not in printed


def test_a_rotation_that_the_provider_refuses_ends_with_one(
    service: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    service.answers["POST", "/v1/connections/c1/credentials/rotate"] = (
        422,
        {"code": "credential_refused", "detail": "the provider does not take it"},
    )
    (tmp_path / "key").write_text("canary-wrong")
    assert run(monkeypatch, "rotate", "c1", "--secret-file", f"{NAME}={tmp_path / 'key'}") == 1
    told = capsys.readouterr()
    assert "credential_refused the provider does not take it" in told.err
    assert "canary" not in told.out + told.err


def test_a_test_that_fails_ends_with_one(
    service: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {"outcome": "credential", "status": 401, "mode": "sandbox"}
    service.answers["POST", "/v1/connections/c1/test"] = (200, refused)
    assert run(monkeypatch, "test", "c1") == 1
    assert "credential, status 401" in capsys.readouterr().out


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("create", "nosuchprovider", "--tenant", "t1"), "no provider nosuchprovider"),
        (("create", PLAIN.slug, "--tenant", "t1", "--secret-file", f"{NAME}=/no/such/file"), "cannot be read"),
        (("create", PLAIN.slug, "--tenant", "t1", "--secret-file", NAME), "not NAME=VALUE"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], why: str
) -> None:
    assert run(monkeypatch, *arguments) == 1
    assert why in capsys.readouterr().err
