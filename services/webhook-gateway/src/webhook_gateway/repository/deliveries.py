"""SQL of `deliveries`: storing records, knowing events, and reading single deliveries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from chassis.db.connection import Connection
from webhook_gateway.stored import Delivery

_TYPES: Final[dict[str, str]] = {
    **dict.fromkeys(("id", "connection", "first_delivery"), "uuid"),
    **dict.fromkeys(("item", "status"), "smallint"),
    **dict.fromkeys(("received_at", "verified_at"), "timestamptz"),
    **dict.fromkeys(("items", "cards", "partition", "body_bytes"), "integer"),
    "offset": "bigint",
    "body": "bytea",
    **dict.fromkeys(
        (
            *("outcome", "reason", "settled", "provider", "tenant", "endpoint", "lane", "origin", "replay"),
            *("event_id", "event_type", "event_sha256", "api_version", "entity", "method", "key_id", "message_id"),
            *("source", "record_key", "trace_id", "traceparent", "topic", "content_type", "encoding", "body_sha256"),
            *("claim", "place"),
            *("headers", "document"),
        ),
        "text",
    ),
}
_JSON: Final = frozenset({"headers", "document"})
_NAMES: Final = ", ".join(f'"{name}"' for name in _TYPES)
_ARRAYS: Final = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_TYPES.values(), start=1))
_SELECTED: Final = ", ".join(f'"{name}"::jsonb' if name in _JSON else f'"{name}"' for name in _TYPES)
# What a list shows; a body is only read for one delivery, or for an export.
SUMMARY: Final = """id, item, outcome, reason, status, settled, provider, tenant, endpoint, connection, lane, origin,
    replay, first_delivery, event_id, event_type, entity, api_version, key_id, received_at, trace_id, cards,
    body_bytes"""
EVERYTHING: Final = ", ".join(f'"{name}"' for name in _TYPES if name != "document")
# Longer than any provider's retry horizon (3 days and more); bounded, because each day is an index to look into.
EVENT_MEMORY: Final = timedelta(days=30)
# An id's time is the moment of arrival; a slow body and clocks that differ stay far below this.
_ID_TOLERANCE: Final = timedelta(hours=2)
# PostgreSQL's jsonb cannot hold the character NUL; a body that has one is kept, but not searched by path.
_NUL: Final = "\\u0000"

Place = tuple[UUID, int, datetime]


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """The first delivery of an event, the hash of the event's own bytes, and where it came from."""

    delivery: UUID
    sha256: str
    origin: str


async def insert(connection: Connection, deliveries: Sequence[Delivery]) -> set[Place]:
    """Store deliveries and return the places (id, item, received_at) of those that were not there yet."""
    columns = [[_cell(name, getattr(delivery, name)) for delivery in deliveries] for name in _TYPES]
    rows = await connection.fetch(
        f"""INSERT INTO deliveries ({_NAMES})
            SELECT {_SELECTED} FROM unnest({_ARRAYS}) AS one ({_NAMES})
            ON CONFLICT DO NOTHING RETURNING id, item, received_at""",  # noqa: S608 (names of ours)
        *columns,
    )
    return {(row["id"], row["item"], row["received_at"]) for row in rows}


async def released(connection: Connection, deliveries: Iterable[Delivery]) -> None:
    """Note where deliveries that were held, and then released, are now: in a lane."""
    await connection.executemany(
        """UPDATE deliveries SET outcome = 'accepted', topic = $4, partition = $5, "offset" = $6, replay = $7
           WHERE id = $1 AND item = $2 AND received_at = $3 AND outcome IN ('held', 'conflict')""",
        [(d.id, d.item, d.received_at, d.topic, d.partition, d.offset, d.replay) for d in deliveries],
    )


async def known_events(
    connection: Connection, events: Sequence[tuple[str, str]], since: datetime
) -> dict[tuple[str, str], KnownEvent]:
    """Return the first delivery of each known (endpoint, event id), of those within `EVENT_MEMORY` before `since`."""
    rows = await connection.fetch(
        """SELECT DISTINCT ON (endpoint, event_id) endpoint, event_id, id, event_sha256, origin FROM deliveries
           JOIN unnest($1::text[], $2::text[]) AS wanted (wanted_endpoint, wanted_event)
             ON endpoint = wanted_endpoint AND event_id = wanted_event
           WHERE event_id <> '' AND outcome IN ('accepted', 'held') AND received_at >= $3
           ORDER BY endpoint, event_id, received_at, id""",
        [endpoint for endpoint, _ in events],
        [event for _, event in events],
        since - EVENT_MEMORY,
    )
    return {
        (row["endpoint"], row["event_id"]): KnownEvent(row["id"], row["event_sha256"], row["origin"]) for row in rows
    }


async def items_of(connection: Connection, delivery: UUID) -> list[dict[str, Any]]:
    """Return all items of one request in order, with bodies and headers; empty when it is unknown."""
    select = f"SELECT {EVERYTHING} FROM deliveries WHERE id = $1"  # noqa: S608 (names of ours)
    arrived = _arrival(delivery)
    rows: list[Any] = []
    if arrived is not None:
        # Two or three days' partitions instead of all of them.
        window = (arrived - _ID_TOLERANCE, arrived + _ID_TOLERANCE)
        rows = await connection.fetch(f"{select} AND received_at BETWEEN $2 AND $3 ORDER BY item", delivery, *window)
    if not rows:
        rows = await connection.fetch(f"{select} ORDER BY item", delivery)
    return [dict(row) for row in rows]


async def attempts_of(connection: Connection, events: Sequence[tuple[str, str]], limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries of (endpoint, event id) pairs, oldest first, whatever became of them."""
    rows = await connection.fetch(
        f"""SELECT {SUMMARY} FROM deliveries
            JOIN unnest($1::text[], $2::text[]) AS wanted (wanted_endpoint, wanted_event)
              ON endpoint = wanted_endpoint AND event_id = wanted_event
            WHERE event_id <> '' ORDER BY received_at, id, item LIMIT $3""",  # noqa: S608 (names of ours)
        [endpoint for endpoint, _ in events],
        [event for _, event in events],
        limit,
    )
    return [dict(row) for row in rows]


async def made_from(connection: Connection, refused: UUID, received_at: datetime) -> list[dict[str, Any]]:
    """Return the deliveries that verifying a refused one again has made."""
    rows = await connection.fetch(
        f"SELECT {SUMMARY} FROM deliveries WHERE received_at = $2 AND replay = $1 ORDER BY id, item",  # noqa: S608
        str(refused),
        received_at,
    )
    return [dict(row) for row in rows]


async def settle(connection: Connection, places: Iterable[Place], settled: str) -> None:
    """Say what became of held, conflicting or rejected deliveries."""
    await connection.executemany(
        "UPDATE deliveries SET settled = $4 WHERE id = $1 AND item = $2 AND received_at = $3",
        [(*place, settled) for place in places],
    )


async def endpoints_with_held(connection: Connection) -> list[tuple[str, str]]:
    """Return (endpoint, tenant) of everything that holds deliveries of a pause back."""
    rows = await connection.fetch(
        "SELECT DISTINCT endpoint, tenant FROM deliveries WHERE outcome = 'held' AND settled = ''"
    )
    return [(row["endpoint"], row["tenant"]) for row in rows]


async def held_counts(connection: Connection) -> dict[str, int]:
    """Return how many deliveries are held back, by outcome: held or conflict."""
    rows = await connection.fetch(
        """SELECT outcome, count(*) AS held FROM deliveries
           WHERE outcome IN ('held', 'conflict') AND settled = '' GROUP BY 1"""
    )
    return {row["outcome"]: row["held"] for row in rows}


def _cell(name: str, value: Any) -> Any:
    if name not in _JSON:
        return value
    if value is None:
        return None
    text = orjson.dumps(value).decode()
    if _NUL not in text:
        return text
    return None if name == "document" else text.replace(_NUL, "\ufffd")


def _arrival(delivery: UUID) -> datetime | None:
    """Return the time inside a version 7 UUID (RFC 9562 §5.7), or None for any other."""
    if delivery.version != 7:  # noqa: PLR2004 (the version that has a time)
        return None
    return datetime.fromtimestamp((delivery.int >> 80) / 1000, tz=UTC)
