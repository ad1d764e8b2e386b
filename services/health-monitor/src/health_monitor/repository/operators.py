"""What operators want: states with a time to live, orders of providers, clearances."""

from __future__ import annotations

from datetime import UTC, datetime

from chassis.db.connection import Connection
from contracts.events.health import RouteState
from health_monitor.failover import Plan
from health_monitor.monitor import Configuration, Override
from health_monitor.statistics import RouteKey


async def configuration(connection: Connection) -> Configuration:
    """Return everything that operators configured; overrides that are over included, for their owner to end them."""
    overrides = await connection.fetch("SELECT * FROM route_overrides")
    plans = await connection.fetch("SELECT capability, providers, shares FROM capability_plans")
    cleared = await connection.fetchval("SELECT at FROM clearances WHERE name = 'self_fault'")
    return Configuration(
        plans={row["capability"]: Plan(tuple(row["providers"]), row["shares"]) for row in plans},
        overrides={
            RouteKey(row["provider"], row["capability"], row["mode"]): Override(
                RouteState(row["state"]), row["until"], row["reason"], row["actor"]
            )
            for row in overrides
        },
        cleared_at=cleared or datetime.min.replace(tzinfo=UTC),
    )


async def put_override(connection: Connection, key: RouteKey, wanted: Override, now: datetime) -> None:
    """Demand a state of a route, in place of an earlier demand."""
    await connection.execute(
        """INSERT INTO route_overrides (provider, capability, mode, state, until, reason, actor, at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
           ON CONFLICT (provider, capability, mode) DO UPDATE SET state = excluded.state, until = excluded.until,
               reason = excluded.reason, actor = excluded.actor, at = excluded.at""",
        *key,
        wanted.state,
        wanted.until,
        wanted.reason,
        wanted.actor,
        now,
    )


async def end_override(connection: Connection, key: RouteKey) -> bool:
    """Take a demand back; returns whether there was one."""
    ended = await connection.fetchval(
        "DELETE FROM route_overrides WHERE provider = $1 AND capability = $2 AND mode = $3 RETURNING true", *key
    )
    return bool(ended)


async def forget_overrides(connection: Connection, before: datetime) -> None:
    """Delete demands that were over before an instant."""
    await connection.execute("DELETE FROM route_overrides WHERE until < $1", before)


async def put_plan(connection: Connection, capability: str, plan: Plan, actor: str, now: datetime) -> None:
    """Set the order and shares of a capability."""
    await connection.execute(
        """INSERT INTO capability_plans (capability, providers, shares, actor, at) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (capability) DO UPDATE SET providers = excluded.providers, shares = excluded.shares,
               actor = excluded.actor, at = excluded.at""",
        capability,
        list(plan.order),
        dict(plan.shares),
        actor,
        now,
    )


async def get_plan(connection: Connection, capability: str) -> Plan | None:
    """Return what was configured for a capability, or None."""
    row = await connection.fetchrow("SELECT providers, shares FROM capability_plans WHERE capability = $1", capability)
    return None if row is None else Plan(tuple(row["providers"]), row["shares"])


async def clear_self_fault(connection: Connection, actor: str, now: datetime) -> None:
    """Note that an operator takes the evidence for real."""
    await connection.execute(
        """INSERT INTO clearances (name, at, actor) VALUES ('self_fault', $1, $2)
           ON CONFLICT (name) DO UPDATE SET at = excluded.at, actor = excluded.actor""",
        now,
        actor,
    )
