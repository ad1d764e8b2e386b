"""All SQL of the orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db.connection import Connection
from orchestrator.engine import Entry
from orchestrator.models import Saga, Timer

_COLUMNS: Final = (
    *("id", "tenant", "definition", "version", "business_key", "status", "given", "state", "trace", "started_by"),
    *("created_at", "updated_at"),
)
_NAMES: Final = ", ".join(_COLUMNS)
_SUMMARY: Final = "id, tenant, definition, version, business_key, status, started_by, created_at, updated_at"


async def insert(connection: Connection, saga: Saga) -> bool:
    """Store a new run; False when its (tenant, definition, business key) runs or ran already."""
    values = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
    inserted = await connection.fetchval(
        f"INSERT INTO sagas ({_NAMES}) VALUES ({values}) ON CONFLICT DO NOTHING RETURNING 1",  # noqa: S608
        *(getattr(saga, name) for name in _COLUMNS),
    )
    return bool(inserted)


async def lock(connection: Connection, saga_id: UUID) -> Saga | None:
    """Return a run, locked until the transaction ends."""
    row = await connection.fetchrow(f"SELECT {_NAMES} FROM sagas WHERE id = $1 FOR UPDATE", saga_id)  # noqa: S608
    return Saga(**dict(row)) if row else None


async def find(connection: Connection, tenant: str, definition: str, business_key: str) -> Saga | None:
    """Return the run of a business key."""
    row = await connection.fetchrow(
        f"SELECT {_NAMES} FROM sagas WHERE tenant = $1 AND definition = $2 AND business_key = $3",  # noqa: S608
        *(tenant, definition, business_key),
    )
    return Saga(**dict(row)) if row else None


async def save(connection: Connection, saga: Saga, entries: Sequence[Entry]) -> None:
    """Write a run's state and the new entries of its timeline."""
    await connection.execute(
        "UPDATE sagas SET status = $2, state = $3, updated_at = $4 WHERE id = $1",
        *(saga.id, saga.status, saga.state, saga.updated_at),
    )
    await connection.executemany(
        "INSERT INTO saga_events (saga_id, seq, at, entry, step, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        [(saga.id, entry.seq, saga.updated_at, entry.entry, entry.step, entry.detail) for entry in entries],
    )


async def set_timers(connection: Connection, timers: Sequence[Timer]) -> None:
    """Set timers; a step has one, so a later one replaces it."""
    await connection.executemany(
        """INSERT INTO timers (saga_id, step, attempt, due_at) VALUES ($1, $2, $3, $4)
           ON CONFLICT (saga_id, step) DO UPDATE SET attempt = excluded.attempt, due_at = excluded.due_at""",
        [(timer.saga_id, timer.step, timer.attempt, timer.due_at) for timer in timers],
    )


async def due_timers(connection: Connection, now: datetime, limit: int) -> list[tuple[UUID, str]]:
    """Return the saga and step of up to `limit` timers that are due, the longest due first."""
    rows = await connection.fetch(
        "SELECT saga_id, step FROM timers WHERE due_at <= $1 ORDER BY due_at LIMIT $2", now, limit
    )
    return [(row["saga_id"], row["step"]) for row in rows]


async def take_timer(connection: Connection, saga_id: UUID, step: str, now: datetime) -> Timer | None:
    """Remove and return a timer; None when another replica took it, or it is no longer due."""
    row = await connection.fetchrow(
        """DELETE FROM timers WHERE saga_id = $1 AND step = $2 AND due_at <= $3
           RETURNING saga_id, step, attempt, due_at""",
        *(saga_id, step, now),
    )
    return Timer(**dict(row)) if row else None


async def postpone_timer(connection: Connection, saga_id: UUID, step: str, due_at: datetime) -> None:
    """Make a timer due later."""
    await connection.execute("UPDATE timers SET due_at = $3 WHERE saga_id = $1 AND step = $2", *(saga_id, step, due_at))


async def show(connection: Connection, saga_id: UUID) -> dict[str, Any] | None:
    """Return a run with its steps, its timeline and its pending timers."""
    row = await connection.fetchrow(
        f"""SELECT {_SUMMARY}, given, trace, state->'steps' AS steps,
                   (SELECT coalesce(jsonb_agg(jsonb_build_object('seq', e.seq, 'at', e.at, 'entry', e.entry,
                        'step', e.step, 'detail', e.detail) ORDER BY e.seq), '[]')
                    FROM saga_events e WHERE e.saga_id = sagas.id) AS timeline,
                   (SELECT coalesce(jsonb_agg(jsonb_build_object('step', t.step, 'attempt', t.attempt,
                        'due_at', t.due_at) ORDER BY t.due_at), '[]')
                    FROM timers t WHERE t.saga_id = sagas.id) AS timers
            FROM sagas WHERE id = $1""",  # noqa: S608
        saga_id,
    )
    return dict(row) if row else None


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` runs, newest first; `filters` may hold tenant, definition, status, business_key."""
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=3)]
    where = " AND ".join(["($1::text IS NULL OR id < $1::text::uuid)", *conditions])
    rows = await connection.fetch(
        f"SELECT {_SUMMARY} FROM sagas WHERE {where} ORDER BY id DESC LIMIT $2",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]
