"""Routes, the decisions about them, and the generations of their owners."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from chassis.db.connection import Connection
from contracts.modes import Mode
from health_monitor.monitor import Decision, Remembered
from health_monitor.statistics import RouteKey


async def next_generation(connection: Connection, least: int) -> int:
    """Return a generation that nobody had before, `least` or greater."""
    return int(
        await connection.fetchval(
            """INSERT INTO owners (name, generation) VALUES ('routes', $1)
               ON CONFLICT (name) DO UPDATE SET generation = greatest(owners.generation + 1, $1)
               RETURNING generation""",
            least,
        )
    )


async def memory(connection: Connection, since: datetime) -> dict[RouteKey, Remembered]:
    """Return what routes remember across owners: the learned ratio, and how often they went down since an instant."""
    rows = await connection.fetch(
        """SELECT provider, capability, mode, ratio, (SELECT count(*) FROM route_transitions AS moved
               WHERE moved.provider = routes.provider AND moved.capability = routes.capability
                 AND moved.mode = routes.mode AND moved.after = 'down' AND moved.decided_at > $1) AS failovers
           FROM routes""",
        since,
    )
    return {
        RouteKey(row["provider"], row["capability"], row["mode"]): Remembered(row["ratio"], row["failovers"])
        for row in rows
    }


async def save(
    connection: Connection, decisions: Sequence[Decision], learned: Mapping[RouteKey, tuple[float, dict[str, Any]]]
) -> None:
    """Keep decisions, and what was learned of routes; an older epoch never replaces a newer one, whoever writes."""
    await connection.executemany(
        """INSERT INTO routes (provider, capability, mode, state, share, reason, decided_at, epoch_generation,
                               epoch_counter, provider_order, shares, probe, idempotent_only, ratio, numbers)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, '{}')
           ON CONFLICT (provider, capability, mode) DO UPDATE SET state = excluded.state, share = excluded.share,
               reason = excluded.reason, decided_at = excluded.decided_at,
               epoch_generation = excluded.epoch_generation, epoch_counter = excluded.epoch_counter,
               provider_order = excluded.provider_order, shares = excluded.shares, probe = excluded.probe,
               idempotent_only = excluded.idempotent_only
           WHERE (routes.epoch_generation, routes.epoch_counter)
               < (excluded.epoch_generation, excluded.epoch_counter)""",
        [_row(decision) for decision in decisions],
    )
    await connection.executemany(
        """INSERT INTO route_transitions (provider, capability, mode, epoch_generation, epoch_counter, before, after,
                                          share, reason, decided_at, kind, evidence, shares, actor)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING""",
        [_transition(decision) for decision in decisions if decision.move is not None],
    )
    await connection.executemany(
        "UPDATE routes SET ratio = $4, numbers = $5 WHERE provider = $1 AND capability = $2 AND mode = $3",
        [(*key, ratio, numbers) for key, (ratio, numbers) in sorted(learned.items())],
    )


def _row(decision: Decision) -> tuple[Any, ...]:
    record = decision.record
    place = (*decision.key, record.state, record.share, record.reason, record.decided_at, *record.epoch)
    return (*place, list(record.order), dict(record.shares), record.probe, record.idempotent_only)


def _transition(decision: Decision) -> tuple[Any, ...]:
    record, move = decision.record, decision.move
    if move is None:
        raise ValueError("only a move is a transition")
    told = (move.before, move.after, record.share, record.reason, record.decided_at, move.kind, move.evidence)
    return (*decision.key, *record.epoch, *told, dict(record.shares), decision.actor)


_SHOWN = """SELECT routes.*, ARRAY[epoch_generation, epoch_counter] AS epoch, override.state AS override_state,
                   override.until AS override_until, override.reason AS override_reason,
                   override.actor AS override_actor
            FROM routes LEFT JOIN route_overrides AS override USING (provider, capability, mode)"""


async def page_of(connection: Connection, mode: Mode, after: Sequence[Any] | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` routes of a mode by capability and provider, those behind `after`."""
    capability, provider = after or ("", "")
    rows = await connection.fetch(
        f"""{_SHOWN} WHERE (capability, provider) > ($1::text, $2::text) AND mode = $4
            ORDER BY capability, provider LIMIT $3""",
        str(capability),
        str(provider),
        limit,
        mode,
    )
    return [dict(row) for row in rows]


async def of_capability(connection: Connection, capability: str, mode: Mode) -> list[dict[str, Any]]:
    """Return the routes of a capability in a mode, by provider."""
    rows = await connection.fetch(f"{_SHOWN} WHERE capability = $1 AND mode = $2 ORDER BY provider", capability, mode)
    return [dict(row) for row in rows]


async def one(connection: Connection, key: RouteKey) -> dict[str, Any] | None:
    """Return one route, or None when no call was ever seen."""
    row = await connection.fetchrow(f"{_SHOWN} WHERE provider = $1 AND capability = $2 AND mode = $3", *key)
    return None if row is None else dict(row)


async def is_known(connection: Connection, provider: str, capability: str) -> bool:
    """Tell whether a call was ever seen on the route, in whichever mode."""
    query = "SELECT EXISTS (SELECT FROM routes WHERE provider = $1 AND capability = $2)"
    return bool(await connection.fetchval(query, provider, capability))


async def transitions(
    connection: Connection, capability: str, mode: Mode, providers: Collection[str], limit: int
) -> list[dict[str, Any]]:
    """Return the newest decisions about routes of a capability in a mode, newest first."""
    rows = await connection.fetch(
        """SELECT provider, mode, before, after, share, shares, kind, reason, evidence, actor, decided_at,
                  ARRAY[epoch_generation, epoch_counter] AS epoch
           FROM route_transitions WHERE capability = $1 AND mode = $4 AND provider = ANY($2)
           ORDER BY decided_at DESC, epoch_generation DESC, epoch_counter DESC LIMIT $3""",
        capability,
        list(providers),
        limit,
        mode,
    )
    return [dict(row) for row in rows]
