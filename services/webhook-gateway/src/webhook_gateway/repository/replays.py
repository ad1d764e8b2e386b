"""SQL of `replay_jobs` and `replay_items`: what is to be written again, in which order, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db.connection import Connection
from contracts.topics import GATEWAY_EVENTS, GATEWAY_QUARANTINE
from webhook_gateway.models import ReplayJob
from webhook_gateway.repository.deliveries import EVERYTHING
from webhook_gateway.repository.pages import Listing, newest
from webhook_gateway.selection import DeliveryFilter

# Choosing a million deliveries takes some seconds; the pool's 15 s are for single requests.
_SELECT_TIMEOUT: Final = "60s"
_JOB: Final = tuple(ReplayJob.model_fields)
_JOB_NAMES: Final = ", ".join(_JOB)
_LANES: Final = [topic.name for topic in GATEWAY_EVENTS.values()]
# Each act takes only what it can write again: a replay what was in a lane, a release what was held back or conflicted.
_REPLAYABLE: Final = "outcome IN ('accepted', 'duplicate') AND topic = ANY(%s::text[])"
_RELEASABLE: Final = "outcome IN ('held', 'conflict') AND settled = '' AND topic = ANY(%s::text[])"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which deliveries a job takes: those of a filter, or of given requests. Repeats only where they are named."""

    kind: str
    wanted: DeliveryFilter = field(default_factory=DeliveryFilter)
    deliveries: Sequence[UUID] | None = None

    def where(self, values: list[Any]) -> str:
        """Return the SQL condition, appending its values."""
        releasing = self.kind == "release"
        values.append([*_LANES, GATEWAY_QUARANTINE.name] if releasing else _LANES)
        conditions = [(_RELEASABLE if releasing else _REPLAYABLE) % f"${len(values)}", *self.wanted.conditions(values)]
        if self.deliveries is not None:
            values.append(list(self.deliveries))
            conditions.append(f"id = ANY(${len(values)}::uuid[])")
        elif not releasing and self.wanted.outcome is None:
            conditions.append("outcome = 'accepted'")
        return " AND ".join(conditions)


async def choose(connection: Connection, job: UUID, choice: Choice, limit: int) -> int:
    """Fix what a job will write, in the order in which it was written first, and return how many that are.

    Stops one behind `limit`, so that the caller can tell that there are too many.
    """
    values: list[Any] = [job, limit + 1]
    where = choice.where(values)
    await connection.execute(f"SET LOCAL statement_timeout = '{_SELECT_TIMEOUT}'")
    done: str = await connection.execute(
        f"""INSERT INTO replay_items (job, seq, delivery, item, received_at)
            SELECT $1, row_number() OVER (ORDER BY topic, partition, "offset"), id, item, received_at
            FROM (SELECT * FROM deliveries WHERE {where} LIMIT $2) AS chosen""",  # noqa: S608 (names, never values)
        *values,
    )
    return int(done.rpartition(" ")[2])


async def matching(connection: Connection, choice: Choice, limit: int) -> list[dict[str, Any]]:
    """Return what a job would take, by lane and type: how many, the first and the last time."""
    values: list[Any] = [limit + 1]
    where = choice.where(values)
    await connection.execute(f"SET LOCAL statement_timeout = '{_SELECT_TIMEOUT}'")
    rows = await connection.fetch(
        f"""SELECT lane, provider, event_type, count(*) AS deliveries, min(received_at) AS first_at,
                max(received_at) AS last_at
            FROM (SELECT lane, provider, event_type, received_at FROM deliveries WHERE {where} LIMIT $1) AS chosen
            GROUP BY 1, 2, 3 ORDER BY 4 DESC""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]


async def add(connection: Connection, job: ReplayJob) -> None:
    """Store a new job."""
    places = ", ".join(f"${place}" for place in range(1, len(_JOB) + 1))
    await connection.execute(
        f"INSERT INTO replay_jobs ({_JOB_NAMES}) VALUES ({places})",  # noqa: S608 (names of ours)
        *(getattr(job, name) for name in _JOB),
    )


async def set_total(connection: Connection, job: UUID, total: int) -> None:
    """Say how many items a job has."""
    await connection.execute("UPDATE replay_jobs SET total = $2 WHERE id = $1", job, total)


async def open_jobs(connection: Connection) -> list[UUID]:
    """Return the jobs that are queued or running, oldest first."""
    rows = await connection.fetch(
        "SELECT id FROM replay_jobs WHERE state IN ('queued', 'running') ORDER BY created_at, id"
    )
    return [row["id"] for row in rows]


async def unsent(connection: Connection, limit: int) -> int:
    """Return how many records wait in the outbox, counting no further than `limit`."""
    return int(await connection.fetchval("SELECT count(*) FROM (SELECT FROM outbox LIMIT $1) AS head", limit))


async def releasing(connection: Connection, endpoint: str) -> bool:
    """Tell whether held deliveries of an endpoint are being released."""
    return bool(
        await connection.fetchval(
            """SELECT EXISTS (SELECT FROM replay_jobs WHERE kind = 'release' AND endpoint = $1
                              AND state IN ('queued', 'running', 'paused'))""",
            endpoint,
        )
    )


async def take(connection: Connection, job: UUID) -> ReplayJob | None:
    """Lock an open job for one step; None while another replica has it, or when it is no longer open."""
    row = await connection.fetchrow(
        f"""SELECT {_JOB_NAMES} FROM replay_jobs WHERE id = $1 AND state IN ('queued', 'running')
            FOR UPDATE SKIP LOCKED""",  # noqa: S608 (names of ours)
        job,
    )
    return None if row is None else ReplayJob(**dict(row))


async def next_items(connection: Connection, job: ReplayJob, count: int) -> list[dict[str, Any]]:
    """Return the next deliveries of a job as they are stored, in order; those that are gone are left out."""
    columns = ", ".join(f"d.{name.strip()}" for name in EVERYTHING.split(","))
    rows = await connection.fetch(
        f"""SELECT {columns} FROM replay_items i
            JOIN deliveries d ON d.id = i.delivery AND d.item = i.item AND d.received_at = i.received_at
            WHERE i.job = $1 AND i.seq > $2 AND i.seq <= $3 ORDER BY i.seq""",  # noqa: S608 (names of ours)
        job.id,
        job.done,
        job.done + count,
    )
    return [dict(row) for row in rows]


async def advance(connection: Connection, job: ReplayJob) -> None:
    """Store how far a job came."""
    await connection.execute(
        """UPDATE replay_jobs SET state = $2, started_at = $3, ended_at = $4, due_at = $5, done = $6, missing = $7,
               error = $8 WHERE id = $1""",
        job.id,
        job.state,
        job.started_at,
        job.ended_at,
        job.due_at,
        job.done,
        job.missing,
        job.error,
    )


async def change_state(connection: Connection, job: UUID, wanted: str, allowed: Sequence[str], at: datetime) -> bool:
    """Put a job that is in one of the `allowed` states into another; returns whether it was."""
    row = await connection.fetchrow(
        """UPDATE replay_jobs SET state = $2, due_at = $4,
               ended_at = CASE WHEN $2 = 'cancelled' THEN $4 ELSE ended_at END
           WHERE id = $1 AND state = ANY($3::text[]) RETURNING id""",
        job,
        wanted,
        list(allowed),
        at,
    )
    return row is not None


async def one(connection: Connection, job: UUID) -> dict[str, Any] | None:
    """Return a job, or None."""
    row = await connection.fetchrow(f"SELECT {_JOB_NAMES} FROM replay_jobs WHERE id = $1", job)  # noqa: S608
    return None if row is None else dict(row)


async def listed(
    connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` jobs, newest first, that match and stand behind `after` (created_at, id)."""
    return await newest(connection, Listing("replay_jobs", _JOB_NAMES, "created_at"), filters, after, limit)


async def jobs_of(connection: Connection, delivery: UUID) -> list[dict[str, Any]]:
    """Return the jobs that wrote, or will write, a delivery again, oldest first."""
    rows = await connection.fetch(
        """SELECT j.id, j.kind, j.state, j.reason, j.created_by, j.created_at, j.new_event_id, i.item, i.seq,
               i.seq <= j.done AS written
           FROM replay_items i JOIN replay_jobs j ON j.id = i.job WHERE i.delivery = $1 ORDER BY j.created_at, i.seq""",
        delivery,
    )
    return [dict(row) for row in rows]
