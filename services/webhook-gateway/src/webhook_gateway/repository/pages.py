"""The page of a table that lists show: filters by column, newest first, behind a cursor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chassis.db.connection import Connection


@dataclass(frozen=True, slots=True)
class Listing:
    """What is listed: names of ours, never values. `at` orders the rows, `id` those of one instant."""

    table: str
    columns: str
    at: str


async def newest(
    connection: Connection, listing: Listing, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` rows, newest first, that match all filters and stand behind `after` (time, id)."""
    values: list[Any] = list(filters.values())
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=1)]
    if after is not None:
        values += after
        place = f"(${len(values) - 1}::text::timestamptz, ${len(values)}::text::uuid)"
        conditions.append(f"({listing.at}, id) < {place}")
    values.append(limit)
    rows = await connection.fetch(
        f"""SELECT {listing.columns} FROM {listing.table} WHERE {" AND ".join(conditions) or "true"}
            ORDER BY {listing.at} DESC, id DESC LIMIT ${len(values)}""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]
