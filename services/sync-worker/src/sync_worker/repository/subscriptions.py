"""SQL for subscriptions at providers, and the lease under which one worker of the fleet looks after one of them.

Leases are by the database's clock; what a leaseholder writes holds only while the generation is its own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db import connection as db
from sync_worker.connections.states import CALLABLE, ENDED
from sync_worker.models import Subscription

_CALLABLE: Final = sorted(CALLABLE)
_ENDED: Final = sorted(ENDED)
_NEW: Final = ("connection", "stream", "tenant", "endpoint", "parameters", "due_at", "created_at", "created_by")
_CHANGING: Final = ("state", "ext_id", "url", "more", "expires_at", "due_at", "checked_at", "drift", "error")


async def insert(connection: db.Connection, new: Subscription) -> bool:
    """Store a subscription that is wanted; False when there is one of this stream that is not about to end."""
    places = ", ".join(f"${number}" for number in range(1, len(_NEW) + 1))
    inserted = await connection.fetchval(
        f"""INSERT INTO subscriptions ({", ".join(_NEW)}) VALUES ({places}) ON CONFLICT DO NOTHING RETURNING 1""",  # noqa: S608
        *(getattr(new, name) for name in _NEW),
    )
    return inserted is not None


async def due(connection: db.Connection, now: datetime, check_before: datetime, limit: int) -> list[tuple[UUID, str]]:
    """Return subscriptions that have to be registered, renewed or compared, and that nobody works on."""
    rows = await connection.fetch(
        """SELECT s.connection, s.stream FROM subscriptions s JOIN connections c ON c.id = s.connection
           WHERE (s.due_at <= $1 OR (s.state = 'active' AND coalesce(s.checked_at, s.created_at) <= $2))
               AND (s.lease_until IS NULL OR s.lease_until < clock_timestamp()) AND c.state = ANY($4)
           ORDER BY s.due_at LIMIT $3""",
        *(now, check_before, limit, _CALLABLE),
    )
    return [(row["connection"], row["stream"]) for row in rows]


async def claim(
    connection: db.Connection, connection_id: UUID, stream: str, owner: str, *, lease_s: float
) -> Subscription | None:
    """Take the lease on a subscription and return it as it is now; None when another has it."""
    row = await connection.fetchrow(
        """UPDATE subscriptions SET gen = gen + 1, lease_owner = $3,
               lease_until = clock_timestamp() + $4 * interval '1 second'
           WHERE connection = $1 AND stream = $2 AND (lease_until IS NULL OR lease_until < clock_timestamp())
           RETURNING *""",
        *(connection_id, stream, owner, lease_s),
    )
    return Subscription(**dict(row)) if row else None


async def save(connection: db.Connection, one: Subscription) -> bool:
    """Write a subscription as its leaseholder knows it, and end the lease; False when another one has it by now.

    One that was asked to end meanwhile still has to.
    """
    settings = ", ".join(f"{name} = ${place}" for place, name in enumerate(_CHANGING, start=5))
    settings = settings.replace("state = $5", "state = CASE WHEN state = 'ending' THEN state ELSE $5 END")
    saved = await connection.fetchval(
        f"""UPDATE subscriptions SET {settings}, lease_owner = '', lease_until = NULL
            WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4 RETURNING 1""",  # noqa: S608
        *(one.connection, one.stream, one.gen, one.lease_owner),
        *(getattr(one, name) for name in _CHANGING),
    )
    return saved is not None


async def delete(connection: db.Connection, one: Subscription) -> None:
    """Forget a subscription that is over."""
    await connection.execute(
        "DELETE FROM subscriptions WHERE connection = $1 AND stream = $2 AND gen = $3",
        one.connection,
        one.stream,
        one.gen,
    )


async def forget_ended(connection: db.Connection) -> None:
    """Forget the subscriptions of connections that are over: nobody has the credentials to take them away any more."""
    await connection.execute(
        "DELETE FROM subscriptions USING connections c WHERE c.id = subscriptions.connection AND c.state = ANY($1)",
        _ENDED,
    )


async def end(connection: db.Connection, connection_id: UUID, stream: str, now: datetime) -> bool:
    """Let a subscription be taken away; False when there is none."""
    found = await connection.fetchval(
        """UPDATE subscriptions SET state = 'ending', due_at = $3 WHERE connection = $1 AND stream = $2 RETURNING 1""",
        *(connection_id, stream, now),
    )
    return found is not None


async def of_connection(connection: db.Connection, connection_id: UUID) -> list[dict[str, Any]]:
    """Return the subscriptions of a connection for people and programs; the last event is exact to a minute."""
    rows = await connection.fetch(
        """SELECT s.stream, s.endpoint, s.parameters, s.state, s.ext_id, s.url, s.expires_at, s.due_at AS renew_at,
                  s.checked_at, s.drift, s.error, s.created_at, s.created_by,
                  (SELECT max(k.last_used_at) FROM endpoint_secrets k WHERE k.endpoint = s.endpoint) AS last_event_at
           FROM subscriptions s WHERE s.connection = $1 ORDER BY s.stream""",
        connection_id,
    )
    return [dict(row) for row in rows]


async def counts(connection: db.Connection, now: datetime) -> dict[tuple[str, str], int]:
    """Return how many there are by provider and state; an active one that is over counts as `expired`."""
    rows = await connection.fetch(
        """SELECT c.provider, count(*) AS found,
                  CASE WHEN s.state = 'active' AND s.expires_at <= $1 THEN 'expired' ELSE s.state END AS state
           FROM subscriptions s JOIN connections c ON c.id = s.connection GROUP BY 1, 3""",
        now,
    )
    return {(row["provider"], row["state"]): row["found"] for row in rows}
