"""Calls by minute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from chassis.db.connection import Connection
from health_monitor.statistics import OUTCOMES, Bucket, RouteKey

_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in OUTCOMES)
_ADD: Final = ", ".join(f"{name} = call_minutes.{name} + excluded.{name}" for name in OUTCOMES)


async def add_calls(connection: Connection, buckets: Mapping[tuple[RouteKey, datetime], Bucket]) -> None:
    """Add calls to their minutes."""
    names = ", ".join(OUTCOMES)
    places = ", ".join(f"${place}" for place in range(5, 5 + len(OUTCOMES) + 2))
    await connection.executemany(
        f"""INSERT INTO call_minutes (provider, capability, mode, minute, {names}, latency_ms_sum, latency_ms_max)
            VALUES ($1, $2, $3, $4, {places})
            ON CONFLICT (provider, capability, mode, minute) DO UPDATE SET {_ADD},
                latency_ms_sum = call_minutes.latency_ms_sum + excluded.latency_ms_sum,
                latency_ms_max = greatest(call_minutes.latency_ms_max, excluded.latency_ms_max)""",  # noqa: S608
        [
            (*key, minute, *(bucket.counts[name] for name in OUTCOMES), bucket.latency_ms_sum, bucket.latency_ms_max)
            for (key, minute), bucket in sorted(buckets.items())
        ],
    )


async def forget_calls(connection: Connection, before: datetime) -> None:
    """Delete the statistics of minutes before an instant."""
    await connection.execute("DELETE FROM call_minutes WHERE minute < $1", before)


async def totals(connection: Connection, keys: Collection[RouteKey], since: datetime) -> dict[RouteKey, dict[str, Any]]:
    """Return the calls of routes in the minutes after `since`, by route; routes without calls are absent."""
    rows = await connection.fetch(
        f"""SELECT provider, capability, mode, {_SUMS}, sum(latency_ms_sum) AS latency_ms_sum,
                   max(latency_ms_max) AS latency_ms_max
            FROM call_minutes
            WHERE (provider, capability, mode) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[]))
                AND minute > $4
            GROUP BY provider, capability, mode""",  # noqa: S608 (column names of ours)
        *([key[at] for key in keys] for at in range(3)),
        since,
    )
    return {RouteKey(row["provider"], row["capability"], row["mode"]): dict(row) for row in rows}
