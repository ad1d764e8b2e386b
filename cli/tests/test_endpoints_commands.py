from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from patchbay import main
from patchbay.endpoints import parse
from patchbay.environment import CliError
from providers import registry

SHOWN = {
    "id": "ep1",
    "provider": "acme",
    "tenant": "t1",
    "state": "paused",
    "lane": "bulk",
    "version": 3,
    "url": "https://gateway.test/hooks/new",
    "addresses": [{"url": "https://gateway.test/hooks/new", "state": "live", "not_after": None}],
    "keys": [
        {
            "key_id": "k2",
            "state": "live",
            "not_before": None,
            "not_after": None,
            "last_used_at": None,
            "created_by": "ann",
        }
    ],
    "lane_rules": [],
}


def answer(_method: str, path: str, _body: Any) -> tuple[int, Any]:
    """Answer like the sync worker."""
    if path == "/v1/connections":
        return 200, {"endpoints": [{"id": "ep1", "url": SHOWN["url"]}]}
    return 200, {"items": [SHOWN]} if path.startswith("/v1/endpoints?") else SHOWN


@pytest.fixture
def service(serve_as: Callable[..., list[tuple[str, str, Any]]]) -> list[tuple[str, str, Any]]:
    return serve_as("SYNC_URL", answer)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", "endpoints", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "case",
    [
        (("list", "--tenant", "t1"), ("GET", "/v1/endpoints?tenant=t1&limit=50", None), "ep1"),
        (("show", "ep1"), ("GET", "/v1/endpoints/ep1", None), "lane_rules"),
        (
            ("rotate-url", "ep1", "--overlap-h", "2"),
            ("POST", "/v1/endpoints/ep1/rotate-url", {"overlap_h": 2.0}),
            "new",
        ),
        (("pause", "ep1"), ("POST", "/v1/endpoints/ep1/pause", {}), "ep1 is paused"),
        (("resume", "ep1"), ("POST", "/v1/endpoints/ep1/resume", {}), "ep1 is"),
        (("retire-key", "ep1", "k1"), ("DELETE", "/v1/endpoints/ep1/secrets/k1", None), "k2"),
        (("retire-key", "ep1", "k1", "--force"), ("DELETE", "/v1/endpoints/ep1/secrets/k1?force=true", None), "k2"),
        (
            ("set", "ep1", "lane=bulk", "max_body_bytes=9", 'redact=["/a"]'),
            ("PATCH", "/v1/endpoints/ep1", {"lane": "bulk", "max_body_bytes": 9, "redact": ["/a"]}),
            "version",
        ),
    ],
)
def test_a_command_asks_the_service_and_prints_its_answer(
    service: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[tuple[str, ...], tuple[str, str, Any], str],
) -> None:
    arguments, asked, printed = case
    assert run(monkeypatch, *arguments) == 0
    assert service[0] == asked
    assert printed in capsys.readouterr().out


def test_a_secret_comes_from_the_environment_and_is_not_printed(
    service: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATCHBAY_WEBHOOK_SECRET", "canary-secret")
    sender = next(one for one in registry.all_providers() if one.manifest.webhook is not None)
    assert run(monkeypatch, "rotate-secret", "ep1", "--overlap-h", "0") == 0
    assert run(monkeypatch, "rotate-secret", "ep1", "--keep-older", "--not-before", "2026-03-01T12:00:00Z") == 0
    assert service.pop()[2]["overlap_h"] is None
    assert run(monkeypatch, "create", sender.slug, "--tenant", "t1", "--account", "a") == 0
    assert service[0] == ("POST", "/v1/endpoints/ep1/secrets", {"value": "canary-secret", "overlap_h": 0.0})
    assert service[1][2]["secrets"] == {sender.webhook.secret: "canary-secret"}
    printed = capsys.readouterr()
    assert "canary" not in printed.out + printed.err
    assert str(SHOWN["url"]) in printed.out


def test_without_a_terminal_the_secrets_variable_is_named(
    service: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    assert run(monkeypatch, "rotate-secret", "ep1") == 1
    assert "PATCHBAY_WEBHOOK_SECRET" in capsys.readouterr().err
    assert service == []


def test_a_setting_without_a_value_is_an_error_for_people() -> None:
    with pytest.raises(CliError, match="NAME=VALUE"):
        parse(["lane"])
    assert parse(["a=", "b=null", "c=x=y"]) == {"a": "", "b": None, "c": "x=y"}
