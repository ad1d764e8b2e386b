"""SQL of what is held back: rows of `deliveries` that are held or in conflict and not settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chassis.db.connection import Connection
from webhook_gateway.repository.deliveries import SUMMARY


async def listed(
    connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` rows that wait for a decision, newest first, behind `after`: (received_at, id, item)."""
    values: list[Any] = list(filters.values())
    conditions = ["outcome <> 'accepted'", "outcome IN ('held', 'conflict')", "settled = ''"]
    conditions += [f"{name} = ${place}" for place, name in enumerate(filters, start=1)]
    if after is not None:
        values += after
        first = len(values) - 2
        place = f"(${first}::text::timestamptz, ${first + 1}::text::uuid, ${first + 2}::smallint)"
        conditions.append(f"(received_at, id, item) < {place}")
    values.append(limit)
    rows = await connection.fetch(
        f"""SELECT {SUMMARY} FROM deliveries WHERE {" AND ".join(conditions)}
            ORDER BY received_at DESC, id DESC, item DESC LIMIT ${len(values)}""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]
