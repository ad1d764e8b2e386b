"""SQL of `delivery_hours` and `speakers`: what was counted while storing, so that no question scans deliveries."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from chassis.db.connection import Connection
from webhook_gateway.stored import Delivery

# Upper bounds of the latency histogram in milliseconds; the last bucket has none. Quantiles are read as upper bounds,
# so they are at most 60 % too high.
LATENCY_BOUNDS_MS: Final = (
    0.5,
    1,
    1.6,
    2.5,
    4,
    6,
    10,
    16,
    25,
    40,
    60,
    100,
    160,
    250,
    400,
    600,
    1000,
    1600,
    2500,
    10000,
)
BUCKETS: Final = len(LATENCY_BOUNDS_MS) + 1
GROUPS: Final = ("provider", "type", "tenant", "endpoint")
INTERVALS: Final = ("hour", "day", "week", "month")
_COLUMNS: Final = {"type": "event_type"}
_KEY: Final = ("hour", "provider", "tenant", "endpoint", "event_type", "outcome", "reason")


class Span(NamedTuple):
    """Half-open time from `start` to `end`; both are whole hours."""

    start: datetime
    end: datetime


async def count(connection: Connection, deliveries: Iterable[Delivery]) -> None:
    """Add deliveries that were just stored to their hours."""
    hours: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * (BUCKETS + 1))
    for delivery in deliveries:
        hour = delivery.received_at.replace(minute=0, second=0, microsecond=0)
        counts = hours[(hour, *(getattr(delivery, name) for name in _KEY[1:]))]
        counts[0] += 1
        if delivery.verified_at is not None:
            taken_ms = (delivery.verified_at - delivery.received_at).total_seconds() * 1000
            counts[1 + bisect_left(LATENCY_BOUNDS_MS, taken_ms)] += 1
    # In one order, so that two batches which count the same hours never wait for each other in a circle.
    await connection.executemany(
        """INSERT INTO delivery_hours
               (hour, provider, tenant, endpoint, event_type, outcome, reason, deliveries, latency)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
           ON CONFLICT (hour, provider, tenant, endpoint, event_type, outcome, reason) DO UPDATE SET
               deliveries = delivery_hours.deliveries + excluded.deliveries,
               latency = (SELECT array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY place) FROM
                   unnest(delivery_hours.latency, excluded.latency) WITH ORDINALITY AS sums (a, b, place))""",
        [(*key, counts[0], counts[1:]) for key, counts in sorted(hours.items())],
    )


async def hear(connection: Connection, deliveries: Iterable[Delivery]) -> None:
    """Note when the endpoints of verified deliveries spoke last; what had to be fetched is not speech."""
    heard: dict[str, tuple[str, str, datetime, datetime]] = {}
    for one in deliveries:
        if one.outcome != "rejected" and one.origin != "reconcile":
            known = heard.get(one.endpoint)
            first, last = (known[2], known[3]) if known else (one.received_at, one.received_at)
            heard[one.endpoint] = (one.provider, one.tenant, min(first, one.received_at), max(last, one.received_at))
    await connection.executemany(
        """INSERT INTO speakers (endpoint, provider, tenant, first_at, last_at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (endpoint) DO UPDATE SET
               provider = excluded.provider, tenant = excluded.tenant,
               first_at = least(speakers.first_at, excluded.first_at),
               last_at = greatest(speakers.last_at, excluded.last_at)""",
        [(endpoint, *facts) for endpoint, facts in sorted(heard.items())],
    )


async def counts(
    connection: Connection, span: Span, group_by: Sequence[str], interval: str | None
) -> list[dict[str, Any]]:
    """Return deliveries by time (truncated to `interval`, else the span's start), group, outcome and reason."""
    keys = ", ".join([*_group(group_by), "outcome", "reason"])
    rows = await connection.fetch(
        f"""SELECT {_at(interval)} AS at, {keys}, sum(deliveries)::bigint AS deliveries FROM delivery_hours
            WHERE hour >= $1 AND hour < $2 GROUP BY 1, {keys} ORDER BY 1, {keys}""",  # noqa: S608 (names of ours)
        span.start,
        span.end,
    )
    return [dict(row) for row in rows]


async def latencies(
    connection: Connection, span: Span, group_by: Sequence[str], interval: str | None
) -> list[dict[str, Any]]:
    """Return the latency histogram by time and group: how many deliveries per `bucket`, which counts from 0."""
    keys = ", ".join([*_group(group_by), "bucket"])
    rows = await connection.fetch(
        f"""SELECT {_at(interval)} AS at, {keys}, sum(one)::bigint AS deliveries FROM
                (SELECT *, place - 1 AS bucket FROM delivery_hours, unnest(latency) WITH ORDINALITY AS l (one, place)
                 WHERE hour >= $1 AND hour < $2 AND one > 0) AS hours
            GROUP BY 1, {keys} ORDER BY 1, {keys}""",  # noqa: S608 (names of ours)
        span.start,
        span.end,
    )
    return [dict(row) for row in rows]


async def oldest_held(connection: Connection) -> datetime | None:
    """Return when the oldest delivery arrived that is held back and not settled."""
    found: datetime | None = await connection.fetchval(
        "SELECT min(received_at) FROM deliveries WHERE outcome IN ('held', 'conflict') AND settled = ''"
    )
    return found


async def speakers(connection: Connection) -> list[dict[str, Any]]:
    """Return every endpoint that has spoken, with its first and last time."""
    rows = await connection.fetch(
        "SELECT endpoint, provider, tenant, first_at, last_at FROM speakers ORDER BY endpoint"
    )
    return [dict(row) for row in rows]


async def hours_of(connection: Connection, since: datetime) -> list[tuple[str, datetime, int]]:
    """Return (endpoint, hour, verified deliveries) for every hour since then in which an endpoint spoke."""
    rows = await connection.fetch(
        """SELECT endpoint, hour, sum(deliveries)::bigint AS deliveries FROM delivery_hours
           WHERE hour >= $1 AND outcome <> 'rejected' GROUP BY 1, 2""",
        since,
    )
    return [(row["endpoint"], row["hour"], row["deliveries"]) for row in rows]


async def refusals(connection: Connection, since: datetime) -> list[dict[str, Any]]:
    """Return rejected and all deliveries by endpoint since an hour, with the most frequent reason."""
    rows = await connection.fetch(
        """SELECT endpoint, min(provider) AS provider, min(tenant) AS tenant, sum(deliveries)::bigint AS deliveries,
               coalesce(sum(deliveries) FILTER (WHERE outcome = 'rejected'), 0)::bigint AS rejected,
               coalesce(mode() WITHIN GROUP (ORDER BY reason) FILTER (WHERE reason <> ''), '') AS reason
           FROM delivery_hours WHERE hour >= $1 GROUP BY endpoint""",
        since,
    )
    return [dict(row) for row in rows]


def _group(group_by: Sequence[str]) -> list[str]:
    return [_COLUMNS.get(name, name) for name in group_by]


def _at(interval: str | None) -> str:
    if interval is not None and interval not in INTERVALS:
        raise ValueError(interval)
    return f"date_trunc('{interval}', hour, 'UTC')" if interval else "$1::timestamptz"
