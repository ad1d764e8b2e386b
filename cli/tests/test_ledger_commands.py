from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchbay import main
from patchbay.environment import CliError
from patchbay.ledger import filters, window

ROW = {"id": "row-1", "state": "open", "kind": "replay", "detail": {"a": 1}, "total": 3, "outcome": "held"}


def answer(_method: str, path: str, _body: Any) -> tuple[int, Any]:
    """Answer like the ledger."""
    status, place = 422 if "colour" in path else 200, path.partition("?")[0]
    if place.endswith("export"):
        return status, b'{"n":1}\n{"n":2}\n'
    if place.endswith("reverify"):
        return status, {"events": 2, "made": "d2", "key_id": "k1"}
    return status, ROW | {"items": [ROW]}


@pytest.fixture
def service(serve_as: Callable[..., list[tuple[str, str, Any]]]) -> list[tuple[str, str, Any]]:
    return serve_as("LEDGER_URL", answer)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (("deliveries", "--outcome", "rejected"), ("GET", "/v1/deliveries?outcome=rejected&limit=20", None)),
        (("deliveries", "d1", "--json"), ("GET", "/v1/deliveries/d1", None)),
        (("reverify", "d1"), ("POST", "/v1/deliveries/d1/reverify", {})),
        (("replay", "list"), ("GET", "/v1/replays?limit=20", None)),
        (("replay", "show", "j1"), ("GET", "/v1/replays/j1", None)),
        (("replay", "cancel", "j1"), ("POST", "/v1/replays/j1/cancel", {})),
        (("quarantine", "list", "--outcome", "held"), ("GET", "/v1/quarantine?outcome=held&limit=20", None)),
        (
            ("quarantine", "release", "d1", "--reason", "a test"),
            ("POST", "/v1/quarantine/d1/release", {"reason": "a test"}),
        ),
        (("dead-letters", "list"), ("GET", "/v1/dead-letters?state=open&limit=20", None)),
        (
            ("dead-letters", "discard", "l1", "--reason", "obsolete"),
            ("POST", "/v1/dead-letters/l1/discard", {"reason": "obsolete"}),
        ),
        (
            ("dead-letters", "replay-all", "--service", "s1", "--reason", "fixed"),
            ("POST", "/v1/dead-letters/replay", {"reason": "fixed", "service": "s1", "dry_run": False}),
        ),
        (("issues", "list", "--kind", "silence"), ("GET", "/v1/issues?kind=silence&limit=20", None)),
        (("issues", "acknowledge", "i1"), ("POST", "/v1/issues/i1/acknowledge", {})),
    ],
)
def test_each_command_asks_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: list[tuple[str, str, Any]],
    arguments: tuple[str, ...],
    asked: tuple[str, str, Any],
) -> None:
    assert run(monkeypatch, *arguments) == 0
    assert service == [asked]
    assert capsys.readouterr().out.strip()


def test_a_day_is_replayed_by_filters_and_deliveries_by_id(
    monkeypatch: pytest.MonkeyPatch, service: list[tuple[str, str, Any]]
) -> None:
    common = ("--reason", "a test", "--rate", "50")
    assert run(monkeypatch, "replay", "start", *common, "--day", "2026-03-01", "--where", "provider=acme") == 0
    assert run(monkeypatch, "replay", "start", "d1", "d2", *common, "--new-event-id") == 0
    assert run(monkeypatch, "replay", "start", "d1", *common, "--day", "2026-03-01") == 1
    options = {"reason": "a test", "rate_per_s": 50, "dry_run": False}
    day = {"received_from": "2026-03-01T00:00:00+00:00", "received_to": "2026-03-02T00:00:00+00:00"}
    assert [body for _, _, body in service] == [
        {"query": {"provider": "acme"} | day, "new_event_id": False} | options,
        {"delivery_ids": ["d1", "d2"], "new_event_id": True} | options,
    ]


def test_a_repaired_value_is_sent_as_it_is(
    monkeypatch: pytest.MonkeyPatch, service: list[tuple[str, str, Any]], tmp_path: Path
) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\xff\x00")
    assert run(monkeypatch, "dead-letters", "replay", "l1", "--reason", "repaired", "--value-file", str(file)) == 0
    assert service[0][2] == {"reason": "repaired", "value_base64": "/wA="}


def test_an_export_is_printed_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], service: list[tuple[str, str, Any]]
) -> None:
    assert run(monkeypatch, "export", "--where", "provider=acme") == 0
    assert capsysbinary.readouterr().out == b'{"n":1}\n{"n":2}\n'
    assert service == [("GET", "/v1/deliveries/export?provider=acme", None)]
    assert run(monkeypatch, "export", "--where", "colour=red") == 1


def test_what_is_no_day_and_no_filter_is_refused() -> None:
    assert window(None) == {}
    for wrong in ("yesterday", "2026-13-01"):
        with pytest.raises(CliError, match="no day"):
            window(wrong)
    with pytest.raises(CliError, match="NAME=VALUE"):
        filters(["provider"])
