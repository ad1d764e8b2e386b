"""`patchbay deliveries ID`: one delivery's whole story, with what stands still."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from patchbay import main
from patchbay.story import READERS

LETTER = "0198aaaa-0000-7000-8000-000000000001"
ITEM: dict[str, Any] = {
    "received_at": "2026-03-01T12:00:00Z",
    "outcome": "rejected",
    "reason": "bad_signature",
    "provider": "acme",
    "tenant": "shop-1",
    "event_id": "evt_1",
    "event_type": "payment.updated",
    "entity": "",
    "headers": [["x-signature", "[hidden]"]],
    "body": {"data": {"name": "[red]Zoë[/red]"}},
}
STORY: dict[str, Any] = {"id": "d1", "items": [ITEM], "attempts": [], "replays": [], "effects": [], "dead_letters": []}


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["patchbay", "deliveries", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.fixture
def services(serve_as: Callable[..., Any]) -> dict[str, Any]:
    """Serve a ledger with `story`, and every reader with its `problems`."""
    known: dict[str, Any] = {"story": STORY, "problems": {}}

    def answering(address: str) -> Callable[[str, str, Any], tuple[int, Any]]:
        def answer(_method: str, path: str, _body: Any) -> tuple[int, Any]:
            if path == "/ready":
                problems = known["problems"].get(address, [])
                return 503 if problems else 200, {"ok": not problems, "problems": problems}
            return 200, known["story"]

        return answer

    for address in READERS.values():
        serve_as(address, answering(address))
    return known


@pytest.mark.usefixtures("services")
def test_a_delivery_is_told_readably(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(monkeypatch, capsys, "d1")
    assert told.startswith("rejected (bad_signature): payment.updated from acme\n")
    assert "event_id     evt_1" in told
    assert "entity " not in told, "what is empty is left out"
    assert '"name": "[red]Zoë[/red]"' in told
    assert "Dead letters: none" in told
    assert "Consumers: none has halted" in told


@pytest.mark.usefixtures("services")
def test_machines_get_all_of_it_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown(monkeypatch, capsys, "d1", "--json")) == STORY


def test_what_a_stranger_sent_does_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], services: dict[str, Any]
) -> None:
    sent = "\x1b]0;mine\x07 two\nlines\x9b2J"
    services["story"] = STORY | {"items": [ITEM | {"body": sent, "event_type": sent, "headers": [["x-a", sent]]}]}
    told = shown(monkeypatch, capsys, "d1")
    assert not set("\x1b\x07\x9b") & set(told)
    assert told.count("\\x1b]0;mine\\x07 two\nlines\\x9b2J") >= 2, "the body keeps its lines"


def test_dead_letters_and_a_halted_consumer_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], services: dict[str, Any]
) -> None:
    letter = {"id": LETTER, "consumer": "sync-worker-deliveries", "error_code": "unreadable_payload", "state": "open"}
    services["story"] = STORY | {"dead_letters": [letter]}
    halted = "sync-worker-deliveries: halted, 51 dead letters of 60 records in 60 s"
    services["problems"]["SYNC_URL"] = [halted]
    told = shown(monkeypatch, capsys, "d1")
    assert "unreadable_payload" in told
    assert f"patchbay dead-letters show {LETTER}, then replay or discard" in told
    assert f"sync-worker is not ready: {halted}" in told
    assert "goes on once its cause is mended" in told


@pytest.mark.usefixtures("services")
def test_a_service_that_is_away_is_named_and_spoils_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORCHESTRATOR_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("VERIFICATION_URL")
    told = shown(monkeypatch, capsys, "d1")
    assert "orchestrator cannot be asked whether it has halted: http://127.0.0.1:1/ready does not answer" in told
    assert "verification cannot be asked whether it has halted: VERIFICATION_URL is not set" in told
    assert "sync-worker is not ready" not in told
