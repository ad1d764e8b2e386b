"""All SQL of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from chassis.db.connection import Connection
from webhook_gateway.models import Delivery

_COLUMNS: Final = (
    *("id", "item", "outcome", "reason", "status", "provider", "tenant", "endpoint", "connection", "lane", "event_id"),
    *("event_type", "entity", "method", "key_id", "received_at", "trace_id", "topic", "partition", "offset"),
    *("headers", "content_type", "encoding", "body", "body_sha256"),
)
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
_VALUES: Final = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
# What a list shows; the body is only read for one delivery.
_SUMMARY: Final = """id, item, outcome, reason, status, provider, tenant, endpoint, connection, lane, event_id,
    event_type, entity, method, key_id, received_at, trace_id"""


async def insert(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Store deliveries; one that is there already stays as it is."""
    await connection.executemany(
        f"INSERT INTO deliveries ({_NAMES}) VALUES ({_VALUES}) ON CONFLICT DO NOTHING",  # noqa: S608
        [[getattr(delivery, name) for name in _COLUMNS] for delivery in deliveries],
    )


async def known_events(connection: Connection, events: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which (endpoint, event id) pairs have an accepted delivery."""
    rows = await connection.fetch(
        """SELECT DISTINCT endpoint, event_id FROM deliveries
           JOIN unnest($1::text[], $2::text[]) AS wanted (wanted_endpoint, wanted_event)
             ON endpoint = wanted_endpoint AND event_id = wanted_event
           WHERE event_id <> '' AND outcome = 'accepted'""",
        [endpoint for endpoint, _ in events],
        [event for _, event in events],
    )
    return {(row["endpoint"], row["event_id"]) for row in rows}


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries, newest first, that match all filters and stand behind `after`.

    `filters` may hold provider, outcome, event_type, entity, tenant, endpoint, received_from, received_to.
    """
    conditions: list[str] = []
    values: list[Any] = []
    operators = {"received_from": "received_at >=", "received_to": "received_at <"}
    for name, value in filters.items():
        values.append(value)
        conditions.append(f"{operators.get(name, f'{name} =')} ${len(values)}")
    if after is not None:
        values += after
        first = len(values) - 2
        place = f"(${first}::text::timestamptz, ${first + 1}::text::uuid, ${first + 2}::smallint)"
        conditions.append(f"(received_at, id, item) < {place}")
    values.append(limit)
    where = " AND ".join(conditions) or "true"
    rows = await connection.fetch(
        f"""SELECT {_SUMMARY} FROM deliveries WHERE {where}
            ORDER BY received_at DESC, id DESC, item DESC LIMIT ${len(values)}""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]


async def items_of(connection: Connection, delivery: UUID) -> list[dict[str, Any]]:
    """Return all items of one request in order, with bodies and headers; empty when it is unknown."""
    rows = await connection.fetch(f"SELECT {_NAMES} FROM deliveries WHERE id = $1 ORDER BY item", delivery)  # noqa: S608
    return [dict(row) for row in rows]
