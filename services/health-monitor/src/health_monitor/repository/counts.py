"""Calls by minute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from chassis.db.connection import Connection
from health_monitor.statistics import OUTCOMES, Bucket, RouteKey

_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in OUTCOMES)
_ADD: Final = ", ".join(f"{name} = call_minutes.{name} + excluded.{name}" for name in OUTCOMES)


async def add_calls(connection: Connection, buckets: Mapping[tuple[str, str, datetime], Bucket]) -> None:
    """Add calls to their minutes."""
    names = ", ".join(OUTCOMES)
    places = ", ".join(f"${place}" for place in range(4, 4 + len(OUTCOMES) + 2))
    await connection.executemany(
        f"""INSERT INTO call_minutes (provider, capability, minute, {names}, latency_ms_sum, latency_ms_max)
            VALUES ($1, $2, $3, {places})
            ON CONFLICT (provider, capability, minute) DO UPDATE SET {_ADD},
                latency_ms_sum = call_minutes.latency_ms_sum + excluded.latency_ms_sum,
                latency_ms_max = greatest(call_minutes.latency_ms_max, excluded.latency_ms_max)""",  # noqa: S608
        [
            (*key, *(bucket.counts[name] for name in OUTCOMES), bucket.latency_ms_sum, bucket.latency_ms_max)
            for key, bucket in sorted(buckets.items())
        ],
    )


async def forget_calls(connection: Connection, before: datetime) -> None:
    """Delete the statistics of minutes before an instant."""
    await connection.execute("DELETE FROM call_minutes WHERE minute < $1", before)


async def totals(connection: Connection, keys: Collection[RouteKey], since: datetime) -> dict[RouteKey, dict[str, Any]]:
    """Return the calls of routes in the minutes after `since`, by route; routes without calls are absent."""
    rows = await connection.fetch(
        f"""SELECT provider, capability, {_SUMS}, sum(latency_ms_sum) AS latency_ms_sum,
                   max(latency_ms_max) AS latency_ms_max
            FROM call_minutes
            WHERE (provider, capability) IN (SELECT * FROM unnest($1::text[], $2::text[])) AND minute > $3
            GROUP BY provider, capability""",  # noqa: S608 (column names of ours)
        [provider for provider, _ in keys],
        [capability for _, capability in keys],
        since,
    )
    return {(row["provider"], row["capability"]): dict(row) for row in rows}
