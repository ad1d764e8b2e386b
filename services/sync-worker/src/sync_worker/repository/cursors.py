"""SQL for cursors: what of a feed was read, and the lease under which one worker of the fleet reads on.

Leases are by the database's clock: a worker whose clock is wrong must not think that another's is over. Whatever a
leaseholder writes holds only while the generation is the one that its lease began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, Literal
from uuid import UUID

from chassis.db import connection as db
from providers.feeds import Window
from sync_worker.connections.states import CALLABLE, ENDED
from sync_worker.models import Cursor

_CALLABLE: Final = sorted(CALLABLE)
_ENDED: Final = sorted(ENDED)
Spent = Literal["spent", "budget", "lost"]
_SHOWN: Final = """stream, window_from, window_until, calls_day, calls, found, missed, last_run_at, due_at, error,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('from', lower(span), 'until', upper(span)) ORDER BY lower(span)),
                     '[]') FROM unnest(done) AS span) AS done, lease_until > clock_timestamp() AS running"""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to read a feed of a provider on, until it ends or another one is given."""

    cursor: Cursor
    owner: str
    provider: str

    @property
    def key(self) -> tuple[UUID, str, int, str]:
        """What every statement of the leaseholder names."""
        return self.cursor.connection, self.cursor.stream, self.cursor.gen, self.owner


async def ensure(connection: db.Connection, streams: dict[str, list[str]], due_at: datetime) -> None:
    """Add the cursors that are missing: one for each connection that may be called, and feed of its provider.

    Those of connections that are over for good go.
    """
    await connection.execute(
        "DELETE FROM cursors USING connections c WHERE c.id = cursors.connection AND c.state = ANY($1)", _ENDED
    )
    pairs = [(provider, stream) for provider, names in streams.items() for stream in names]
    await connection.execute(
        """INSERT INTO cursors (connection, stream, tenant, due_at)
           SELECT c.id, feed.stream, c.tenant, $3 FROM connections c
           JOIN unnest($1::text[], $2::text[]) AS feed (provider, stream) USING (provider)
           WHERE c.state = ANY($4) AND c.method <> '' ON CONFLICT DO NOTHING""",
        [provider for provider, _ in pairs],
        [stream for _, stream in pairs],
        *(due_at, _CALLABLE),
    )


async def due(connection: db.Connection, now: datetime, limit: int) -> list[tuple[UUID, str]]:
    """Return cursors that are due and that nobody reads, the longest due first."""
    rows = await connection.fetch(
        """SELECT k.connection, k.stream FROM cursors k JOIN connections c ON c.id = k.connection
           WHERE k.due_at <= $1 AND (k.lease_until IS NULL OR k.lease_until < clock_timestamp())
               AND c.state = ANY($3)
           ORDER BY k.due_at LIMIT $2""",
        *(now, limit, _CALLABLE),
    )
    return [(row["connection"], row["stream"]) for row in rows]


async def claim(
    connection: db.Connection, connection_id: UUID, stream: str, owner: str, *, now: datetime, lease_s: float
) -> Lease | None:
    """Take the lease on a due cursor; None when another has it, or when it is due no longer."""
    row = await connection.fetchrow(
        """UPDATE cursors SET gen = gen + 1, lease_owner = $3, last_run_at = $4, error = '',
               lease_until = clock_timestamp() + $5 * interval '1 second'
           WHERE connection = $1 AND stream = $2 AND due_at <= $4
               AND (lease_until IS NULL OR lease_until < clock_timestamp())
           RETURNING *, (SELECT provider FROM connections WHERE id = cursors.connection) AS provider""",
        *(connection_id, stream, owner, now, lease_s),
    )
    if row is None:
        return None
    known = dict(row)
    provider = known.pop("provider")
    return Lease(Cursor(**known), owner, provider)


async def gap(connection: db.Connection, lease: Lease, horizon: Window) -> Window | None:
    """Return the oldest span of the horizon that was not read yet, or None when there is none."""
    row = await connection.fetchrow(
        """SELECT lower(span) AS since, upper(span) AS until
           FROM cursors, unnest(tstzmultirange(tstzrange($3, $4)) - done) AS span
           WHERE connection = $1 AND stream = $2 ORDER BY 1 LIMIT 1""",
        *(*lease.key[:2], horizon.since, horizon.until),
    )
    return Window(row["since"], row["until"]) if row else None


async def spend(connection: db.Connection, lease: Lease, today: date, *, budget: int, lease_s: float) -> Spent:
    """Take one call of the day's budget and prolong the lease; tells when there is none left, or no lease any more."""
    spent = await connection.fetchval(
        """UPDATE cursors SET calls = CASE WHEN calls_day = $5 THEN calls + 1 ELSE 1 END, calls_day = $5,
               lease_until = clock_timestamp() + $7 * interval '1 second'
           WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4
               AND (calls_day IS DISTINCT FROM $5 OR calls < $6)
           RETURNING 1""",
        *(*lease.key, today, budget, lease_s),
    )
    if spent is not None:
        return "spent"
    held = await connection.fetchval(
        "SELECT 1 FROM cursors WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4", *lease.key
    )
    return "budget" if held else "lost"


async def save(connection: db.Connection, lease: Lease) -> bool:
    """Write how far the leaseholder came; False when the lease is another's by now, so that nothing may be kept."""
    one = lease.cursor
    saved = await connection.fetchval(
        """UPDATE cursors SET window_from = $5, window_until = $6, page_cursor = $7, page_expires_at = $8,
               enabled_at = $9, found = $10, missed = $11
           WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4 RETURNING 1""",
        *(*lease.key, one.window_from, one.window_until, one.page_cursor, one.page_expires_at),
        *(one.enabled_at, one.found, one.missed),
    )
    return saved is not None


async def complete(connection: db.Connection, lease: Lease, window: Window, keep_since: datetime) -> bool:
    """Note that a window is read to its end; what lies before `keep_since` is forgotten. False as `save`."""
    one = lease.cursor
    saved = await connection.fetchval(
        """UPDATE cursors SET window_from = NULL, window_until = NULL, page_cursor = '', page_expires_at = NULL,
               done = (done + tstzmultirange(tstzrange($5, $6))) * tstzmultirange(tstzrange($7, NULL)),
               found = $8, missed = $9
           WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4 RETURNING 1""",
        *(*lease.key, window.since, window.until, keep_since, one.found, one.missed),
    )
    return saved is not None


async def finish(connection: db.Connection, lease: Lease, due_at: datetime, error: str = "") -> None:
    """End the lease: the next run is at `due_at`, unless somebody asked for one meanwhile."""
    await connection.execute(
        """UPDATE cursors SET lease_owner = '', lease_until = NULL, error = $6,
               due_at = CASE WHEN due_at > last_run_at THEN due_at ELSE $5 END
           WHERE connection = $1 AND stream = $2 AND gen = $3 AND lease_owner = $4""",
        *(*lease.key, due_at, error),
    )


async def hasten(
    connection: db.Connection, connection_id: UUID, now: datetime, again_from: datetime | None = None
) -> int:
    """Make all feeds of a connection due now, read again since `again_from` if that is given; returns how many."""
    changed = await connection.fetch(
        """UPDATE cursors SET due_at = CASE WHEN lease_until > clock_timestamp() THEN greatest($2, last_run_at)
                                   + interval '1 microsecond' ELSE $2 END,
               done = CASE WHEN $3::timestamptz IS NULL THEN done
                           ELSE done - tstzmultirange(tstzrange($3, NULL)) END
           WHERE connection = $1 RETURNING 1""",
        *(connection_id, now, again_from),
    )
    return len(changed)


async def of_connection(connection: db.Connection, connection_id: UUID) -> list[dict[str, Any]]:
    """Return the cursors of a connection for people and programs."""
    rows = await connection.fetch(
        f"SELECT {_SHOWN} FROM cursors WHERE connection = $1 ORDER BY stream",  # noqa: S608 (names of ours)
        connection_id,
    )
    return [dict(row) for row in rows]


async def behind(connection: db.Connection) -> dict[str, datetime]:
    """Return up to when everything is here, by provider: the earliest of its connections that may be called."""
    rows = await connection.fetch(
        """SELECT c.provider, min(coalesce(upper(k.done), c.created_at)) AS until
           FROM cursors k JOIN connections c ON c.id = k.connection WHERE c.state = ANY($1) GROUP BY 1""",
        _CALLABLE,
    )
    return {row["provider"]: row["until"] for row in rows}


async def arrived(connection: db.Connection, consumer: str, message_ids: Sequence[str]) -> set[str]:
    """Return which of these messages a consumer has taken effect of already."""
    rows = await connection.fetch(
        "SELECT message_id FROM inbox WHERE consumer = $1 AND message_id = ANY($2)", consumer, list(message_ids)
    )
    return {row["message_id"] for row in rows}
