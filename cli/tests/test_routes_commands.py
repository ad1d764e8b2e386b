from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from patchbay import main, quotas
from patchbay.environment import CliError
from patchbay.routes import seconds

Asked = list[tuple[str, str, Any]]

SEEN = {"calls": 42, "success_rate": 0.5, "outcomes": {}, "latency_ms_mean": 1.0, "latency_ms_max": 2.0}
SILENT: dict[str, Any] = {
    "calls": 0,
    "success_rate": None,
    "outcomes": {},
    "latency_ms_mean": None,
    "latency_ms_max": None,
}
ROUTE: dict[str, Any] = {
    "provider": "acme",
    "capability": "payments",
    "mode": "live",
    "state": "down",
    "share": 0,
    "epoch": [1, 7],
    "reason": "5 of the last 6 calls failed (5 timeout)",
    "since": "2026-11-21T12:00:00Z",
    "override": None,
    "windows": {"5m": SEEN, "1h": SEEN},
}
FORCED = ROUTE | {
    "provider": "backup",
    "state": "forced_up",
    "share": 100,
    "override": {"state": "forced_up", "until": "2026-11-21T13:00:00Z", "reason": "a test", "actor": "ann"},
    "windows": {"5m": SILENT, "1h": SILENT},
}
CAPABILITY: dict[str, Any] = {
    "capability": "payments",
    "mode": "live",
    "order": ["acme", "backup"],
    "configured": True,
    "shares": {"acme": 0, "backup": 100},
    "providers": [ROUTE, FORCED],
    "decisions": [
        {
            "provider": "acme",
            "mode": "live",
            "before": "healthy",
            "after": "down",
            "share": 0,
            "kind": "outage",
            "actor": "health-monitor",
            "reason": "S_outage 18.2 > h 15.6",
            "evidence": {"failed": 5},
            "decided_at": "2026-11-21T12:00:00Z",
        }
    ],
}
WINDOW = {"limit": 100.0, "seconds": 10.0, "burst": 1.0, "shape": "gcra"}
OLD_VERSION = {
    "provider": "acme",
    "version": "2024-01-01",
    "in_traffic": True,
    "deprecated": True,
    "deprecation_at": None,
    "sunset_at": "2026-12-31T23:59:59Z",
    "days_to_sunset": 40,
    "last_seen": "2026-11-21T12:00:00Z",
}
NO_VERSION = OLD_VERSION | {"provider": "backup", "version": "", "deprecated": False, "sunset_at": None}
QUOTA = {
    "provider": "acme",
    "bucket": "app",
    "mode": "live",
    "version": 3,
    "windows": [WINDOW, {"limit": 25, "seconds": 1, "shape": "concurrent"}],
    "trim": {"bulk": 0.4},
    "owners_trimmed": 1,
    "source": "published",
    "used_ratio": 0.85,
    "worst_owner": "",
    "reason": "it will not last",
    "decided_at": "2026-11-21T12:00:00Z",
}


def answer(_method: str, path: str, body: Any) -> tuple[int, Any]:
    """Answer like the health monitor."""
    path = path.partition("?")[0]
    if path.startswith("/v1/quotas"):
        return 200, {"items": [QUOTA]} if body is None else QUOTA | {"source": "configured"}
    known = {
        "/v1/routes": {"items": [ROUTE, FORCED]},
        "/v1/routes/payments": CAPABILITY,
        "/v1/capabilities/payments/order": body,
        "/v1/self-fault/clear": {"cleared_by": "ann"},
        "/v1/api-versions": {"items": [OLD_VERSION, NO_VERSION]},
    }
    return 200, known.get(path, {"until": "2026-11-21T12:10:00Z"})


@pytest.fixture
def asked(serve_as: Callable[..., Asked]) -> Asked:
    serve_as("SYNC_URL", lambda *_: (200, {"items": []}))
    return serve_as("HEALTH_URL", answer)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


OVERRIDE = "/v1/routes/payments/acme/override"
DOWN = {"state": "forced_down", "ttl_s": 600, "reason": "their maintenance"}
IN_SANDBOX = ("--mode", "sandbox", "--reason", "a contract")
FORCE = ("routes", "force", "payments", "acme", "forced_down", "--for", "10m", "--reason", "their maintenance")


@pytest.mark.parametrize(
    "case",
    [
        (("api-versions", "--ending"), ("GET", "/v1/api-versions?limit=200", None), "2026-12-31T23:59:59Z"),
        (("routes", "list"), ("GET", "/v1/routes?mode=live&limit=200", None), "50.0%"),
        (("routes", "list", "--mode", "sandbox"), ("GET", "/v1/routes?mode=sandbox&limit=200", None), "live"),
        (
            FORCE,
            ("PUT", OVERRIDE, {"mode": "live"} | DOWN),
            "acme (live) is forced_down for payments until 2026-11-21T12:10:00Z",
        ),
        (
            (*FORCE, "--mode", "sandbox"),
            ("PUT", OVERRIDE, {"mode": "sandbox"} | DOWN),
            "acme (sandbox) is forced_down for payments until 2026-11-21T12:10:00Z",
        ),
        (
            ("routes", "release", "payments", "acme"),
            ("DELETE", f"{OVERRIDE}?mode=live", None),
            "acme (live) is no longer forced",
        ),
        (
            ("routes", "release", "payments", "acme", "--mode", "sandbox"),
            ("DELETE", f"{OVERRIDE}?mode=sandbox", None),
            "acme (sandbox) is no longer forced",
        ),
        (
            ("routes", "order", "payments", "acme", "backup", "--share", "acme=80", "--share", "backup=20"),
            (
                "PUT",
                "/v1/capabilities/payments/order",
                {"order": ["acme", "backup"], "shares": {"acme": 80, "backup": 20}},
            ),
            "payments: acme, backup (acme 80 %, backup 20 %)",
        ),
        (("routes", "clear-self-fault"), ("POST", "/v1/self-fault/clear", {}), "cleared by ann"),
        (("quotas", "list", "--provider", "acme"), ("GET", "/v1/quotas?limit=200", None), "bulk by 40%"),
        (
            (*("quotas", "set", "acme", "app", "--window", "100/10s", "--burst", "20"), *IN_SANDBOX),
            (
                "PUT",
                "/v1/quotas/acme/app",
                {
                    "mode": "sandbox",
                    "windows": [{"limit": 100.0, "seconds": 10.0, "shape": "gcra", "burst": 20.0}],
                    "reason": "a contract",
                },
            ),
            "acme app (sandbox): 100 in 10 s; 25 at a time (configured)",
        ),
        (
            ("quotas", "set", "acme", "app", "--as-published", "--reason", "it ended"),
            ("PUT", "/v1/quotas/acme/app", {"mode": "live", "windows": [], "reason": "it ended"}),
            "acme app (live)",
        ),
    ],
)
def test_a_command_asks_the_service_and_prints_its_answer(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[tuple[str, ...], tuple[str, str, Any], str],
) -> None:
    arguments, expected, printed = case
    assert run(monkeypatch, *arguments) == 0
    assert asked == [expected]
    assert printed in capsys.readouterr().out


@pytest.mark.usefixtures("asked")
def test_an_explanation_has_order_shares_states_and_decisions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "routes", "explain", "payments") == 0
    told = capsys.readouterr().out
    assert "order:    acme, backup (as an operator set it)" in told
    assert "new work: acme 0 %, backup 100 %" in told
    assert "S_outage 18.2 > h 15.6" in told
    assert "forced_up by ann until 2026-11-21T13:00:00Z" in told
    assert '"failed"' not in told
    assert run(monkeypatch, "routes", "explain", "payments", "--evidence") == 0
    assert '{"failed": 5}' in capsys.readouterr().out


def test_an_explanation_says_for_which_mode_and_where_nobody_could_probe(
    serve_as: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (down,) = CAPABILITY["decisions"]
    unasked = down | {"after": "healthy", "kind": "unprobed", "reason": "nobody could probe: no connection asked"}
    older = unasked | {"provider": "backup", "reason": "nobody could probe, once"}
    decisions = [unasked, down | {"provider": "backup", "kind": "call"}, older]
    told = CAPABILITY | {"mode": "sandbox", "decisions": decisions}
    asked = serve_as("HEALTH_URL", lambda *_: (200, told))
    assert run(monkeypatch, "routes", "explain", "payments", "--mode", "sandbox", "--decisions", "0") == 0
    assert asked == [("GET", "/v1/routes/payments?mode=sandbox", None)]
    shown = capsys.readouterr().out
    assert "mode:     sandbox" in shown
    assert "but:      acme: nobody could probe: no connection asked" in shown
    assert "backup: nobody" not in shown, "what was decided since then stands"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("routes", "force", "payments", "acme", "forced_down", "--reason", "forever"), 2),
        (("routes", "force", "payments", "acme", "down", "--for", "1h", "--reason", "no such state"), 2),
        ((*FORCE[:5], "--for", "10 minutes", "--reason", "words"), 1),
        (("routes", "order", "payments", "acme", "--share", "acme=all"), 1),
        (("routes", "list", "--mode", "test"), 2),
        (("quotas", "set", "acme", "app", "--reason", "neither"), 1),
        (("quotas", "set", "acme", "app", "--window", "many", "--reason", "no number"), 1),
    ],
)
def test_what_is_incomplete_is_refused_before_anything_is_sent(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    assert run(monkeypatch, *arguments) == code
    assert asked == []


def test_durations_have_a_unit() -> None:
    assert [seconds(text) for text in ("90s", "10m", "2h", "1d")] == [90, 600, 7200, 86_400]
    for text in ("", "10", "0m", "-1m", "1w", "1h30m"):
        with pytest.raises(CliError, match="no duration"):
            seconds(text)


@pytest.mark.usefixtures("asked")
def test_versions_that_do_not_end_are_left_out_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "api-versions")
    assert "backup" in capsys.readouterr().out
    run(monkeypatch, "api-versions", "--ending")
    assert "backup" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("quota", "told"),
    [
        ({}, "85% | bulk by 40%"),
        ({"bucket": "account", "worst_owner": "c7"}, "85% (c7) | 1 connection; all lose bulk by 40%"),
        (
            {"bucket": "endpoint:search", "trim": {}, "owners_trimmed": 12, "worst_owner": "c7"},
            "85% (c7) | 12 connections",
        ),
        ({"bucket": "address", "trim": {}, "owners_trimmed": 2, "worst_owner": "::1"}, "85% (::1) | 2 addresses"),
        ({"bucket": "account", "trim": {}, "owners_trimmed": 0, "used_ratio": 0, "worst_owner": "c7"}, "0% |"),
    ],
)
def test_a_quota_says_how_many_are_slowed_and_whose_forecast_is_worst(quota: dict[str, Any], told: str) -> None:
    row = quotas._row(QUOTA | quota)
    assert f"{row[4]} | {row[5]}".strip() == told


def quotas_of(*used: str, connected: tuple[str, ...] = ()) -> Callable[[str, str, Any], tuple[int, Any]]:
    """Answer like a health monitor, or a sync worker, with published quotas of three providers, a page for each."""
    plain = QUOTA | {"trim": {}, "owners_trimmed": 0, "used_ratio": 0.0}
    pages = [plain | {"provider": name} for name in ("called", "linked", "idle")]

    def answer_pages(_method: str, path: str, _body: Any) -> tuple[int, Any]:
        place, _, query = path.partition("?")
        if place == "/v1/routes":
            return 200, {"items": [{"provider": name} for name in used]}
        if place == "/v1/connections":
            known = [{"provider": name, "state": "live"} for name in connected]
            return 200, {"items": [*known, {"provider": "idle", "state": "revoked"}]}
        number = int(query.partition("after=")[2] or 0)
        return 200, {"items": [pages[number]], "next": str(number + 1) if number + 1 < len(pages) else None}

    return answer_pages


@pytest.mark.parametrize(
    "case",
    [
        ((), {"called", "linked"}, "1 of 3 providers, without a connection or a call, are hidden"),
        (("--all",), {"called", "linked", "idle"}, None),
        (("--provider", "idle"), {"idle"}, None),
    ],
)
def test_quotas_of_providers_that_nobody_uses_are_counted_only(
    serve_as: Callable[..., Asked],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[tuple[str, ...], set[str], str | None],
) -> None:
    arguments, shown, hidden = case
    serve_as("HEALTH_URL", quotas_of("called"))
    serve_as("SYNC_URL", quotas_of(connected=("linked",)))
    assert run(monkeypatch, "quotas", "list", *arguments) == 0
    told = capsys.readouterr().out
    assert {name for name in ("called", "linked", "idle") if f"{name} " in told} == shown
    assert (hidden in told) if hidden else ("hidden" not in told)


def test_quotas_are_listed_when_connections_cannot_be_asked_for(
    serve_as: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_as("HEALTH_URL", quotas_of("called"))
    monkeypatch.setenv("SYNC_URL", "http://127.0.0.1:1")
    assert run(monkeypatch, "quotas", "list") == 0
    told = capsys.readouterr().out
    assert "called " in told
    assert "2 of 3 providers" in told
    assert "connections are not known" in told
