"""All SQL of the health monitor."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from chassis.db.connection import Connection
from contracts.events.health import RouteState
from health_monitor.detector import SHARES, Track, Transition
from health_monitor.statistics import OUTCOMES, Bucket, RouteKey

_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in OUTCOMES)
_ADD: Final = ", ".join(f"{name} = call_minutes.{name} + excluded.{name}" for name in OUTCOMES)


@dataclass(frozen=True, slots=True)
class StoredRoute:
    """A route as it stands in the database; the epoch is (generation, counter)."""

    track: Track
    epoch: tuple[int, int]
    reason: str
    decided_at: datetime

    def after(self, transition: Transition, generation: int) -> StoredRoute:
        """Return the route after one decision: its counter grows by one, its generation never shrinks."""
        epoch = (max(self.epoch[0], generation), self.epoch[1] + 1)
        return replace(self, epoch=epoch, reason=transition.reason, decided_at=transition.decided_at)


async def lock_routes(connection: Connection, keys: Collection[RouteKey], now: datetime) -> dict[RouteKey, StoredRoute]:
    """Return the routes of `keys`, new ones included, locked until the transaction ends.

    Rows are made and locked in key order, so that two replicas cannot deadlock.
    """
    ordered = sorted(keys)
    providers, capabilities = [provider for provider, _ in ordered], [capability for _, capability in ordered]
    await connection.execute(
        """INSERT INTO routes (provider, capability, state, share, reason, decided_at,
                               epoch_generation, epoch_counter, recent, fails, goods)
           SELECT provider, capability, $3, $4, 'no calls yet', $5, 0, 0, '{}', 0, 0
           FROM unnest($1::text[], $2::text[]) AS wanted (provider, capability) ORDER BY provider, capability
           ON CONFLICT DO NOTHING""",
        providers,
        capabilities,
        RouteState.UNKNOWN,
        SHARES[RouteState.UNKNOWN],
        now,
    )
    rows = await connection.fetch(
        """SELECT * FROM routes WHERE (provider, capability) IN (SELECT * FROM unnest($1::text[], $2::text[]))
           ORDER BY provider, capability FOR UPDATE""",
        providers,
        capabilities,
    )
    return {(row["provider"], row["capability"]): _route(row) for row in rows}


def _route(row: Any) -> StoredRoute:
    track = Track(RouteState(row["state"]), tuple(row["recent"]), row["fails"], row["goods"])
    return StoredRoute(track, (row["epoch_generation"], row["epoch_counter"]), row["reason"], row["decided_at"])


async def save_routes(connection: Connection, routes: Mapping[RouteKey, StoredRoute]) -> None:
    """Write routes that `lock_routes` locked."""
    await connection.executemany(
        """UPDATE routes SET state = $3, share = $4, reason = $5, decided_at = $6, epoch_generation = $7,
                             epoch_counter = $8, recent = $9, fails = $10, goods = $11
           WHERE provider = $1 AND capability = $2""",
        [
            (
                *key,
                route.track.state,
                SHARES[route.track.state],
                route.reason,
                route.decided_at,
                *route.epoch,
                list(route.track.recent),
                route.track.fails,
                route.track.goods,
            )
            for key, route in routes.items()
        ],
    )


async def add_transition(connection: Connection, key: RouteKey, route: StoredRoute, transition: Transition) -> None:
    """Keep one decision; `route` is the route after it."""
    await connection.execute(
        """INSERT INTO route_transitions
               (provider, capability, epoch_generation, epoch_counter, before, after, share, reason, decided_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)""",
        *key,
        *route.epoch,
        transition.before,
        transition.after,
        transition.share,
        transition.reason,
        transition.decided_at,
    )


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


async def list_routes(connection: Connection, after: Sequence[Any] | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` routes by capability and provider, those behind `after`."""
    capability, provider = after or ("", "")
    rows = await connection.fetch(
        """SELECT * FROM routes WHERE (capability, provider) > ($1::text, $2::text)
           ORDER BY capability, provider LIMIT $3""",
        str(capability),
        str(provider),
        limit,
    )
    return [dict(row) for row in rows]


async def get_route(connection: Connection, key: RouteKey) -> dict[str, Any] | None:
    """Return one route, or None when no call was ever seen."""
    row = await connection.fetchrow("SELECT * FROM routes WHERE provider = $1 AND capability = $2", *key)
    return None if row is None else dict(row)


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


async def transitions_of(connection: Connection, key: RouteKey, limit: int) -> list[dict[str, Any]]:
    """Return the newest decisions about one route, newest first."""
    rows = await connection.fetch(
        """SELECT before, after, share, reason, decided_at, ARRAY[epoch_generation, epoch_counter] AS epoch
           FROM route_transitions WHERE provider = $1 AND capability = $2
           ORDER BY epoch_generation DESC, epoch_counter DESC LIMIT $3""",
        *key,
        limit,
    )
    return [dict(row) for row in rows]
