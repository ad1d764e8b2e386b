"""One delivery's whole story for people: what came, what became of it, and where it is stuck.

Must never fail because of a service that is away: it says which one could not be asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console

from patchbay import output
from patchbay.client import Platform
from patchbay.environment import CliError

# Who reads deliveries, or acts on what they caused; each says itself whether one of its consumers has halted.
READERS: Final = {
    "the ledger": "LEDGER_URL",
    "sync-worker": "SYNC_URL",
    "health-monitor": "HEALTH_URL",
    "verification": "VERIFICATION_URL",
    "orchestrator": "ORCHESTRATOR_URL",
}
_FACTS: Final = (
    *("received_at", "outcome", "reason", "status", "settled", "provider", "tenant", "endpoint", "connection", "lane"),
    *("origin", "event_id", "event_type", "api_version", "entity", "message_id", "trace_id", "key_id", "verified_at"),
    *("first_delivery", "topic", "partition", "offset", "content_type", "body_bytes", "body_sha256"),
)
_ATTEMPT: Final = ("received_at", "outcome", "reason", "origin", "settled", "id")
_REPLAY: Final = ("created_at", "kind", "state", "written", "created_by", "reason", "id")
_EFFECT: Final = ("at", "service", "kind", "status", "ref", "trace_id")
_LETTER: Final = ("last_seen", "consumer", "error_code", "error", "attempts", "state", "id")


def show(platform: Platform, delivery: Mapping[str, Any]) -> None:
    """Print a delivery as `GET /v1/deliveries/{id}` gives it, and whether a consumer stands still."""
    out = output.console()
    for item in delivery["items"]:
        _item(out, item)
    _section(out, "Attempts of the same event", _ATTEMPT, delivery["attempts"], whole=("id",))
    _section(out, "Replays", _REPLAY, delivery["replays"], whole=("id",))
    _section(out, "Effects downstream", _EFFECT, delivery["effects"])
    letters = delivery["dead_letters"]
    _section(out, "Dead letters", _LETTER, letters, whole=("id",))
    opened = [letter["id"] for letter in letters if letter["state"] == "open"]
    if opened:
        _line(out, f"given up by a consumer: patchbay dead-letters show {opened[0]}, then replay or discard")
    _consumers(out, platform)


def _item(out: Console, item: Mapping[str, Any]) -> None:
    what = item["event_type"] or "a request"
    why = f" ({item['reason']})" if item.get("reason") else ""
    _line(out, f"{item['outcome']}{why}: {what} from {item['provider']}")
    rows = [(name, _text(item[name])) for name in _FACTS if item.get(name) not in (None, "")]
    out.print(output.table(("field", "value"), rows))
    if item.get("headers"):
        out.print()
        out.print(output.table(("header", "value"), item["headers"]))
    out.print()
    body = item.get("body")
    _line(out, body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False))
    out.print()


def _section(
    out: Console, title: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, whole: Sequence[str] = ()
) -> None:
    cells = [[_text(row.get(name)) for name in columns] for row in rows]
    if not cells:
        _line(out, f"{title}: none")
        return
    _line(out, f"{title}:")
    output.console(wide=bool(whole)).print(output.table(columns, cells, whole=whole))
    out.print()


def _consumers(out: Console, platform: Platform) -> None:
    """Say which services stand still: a halted consumer has written no dead letter of what it stands before."""
    told = []
    for name, address in READERS.items():
        try:
            told += [f"{name} is not ready: {problem}" for problem in platform.unready(address)]
        except CliError as error:
            told.append(f"{name} cannot be asked whether it has halted: {error}")
    if any(": halted" in line for line in told):
        told.append("a halted consumer goes on once its cause is mended and its service restarted")
    for line in told or ["Consumers: none has halted"]:
        _line(out, line)


def _line(out: Console, text: str) -> None:
    out.print(output.harmless(text), markup=False, soft_wrap=True)


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
