"""SQL for effects."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from chassis.db.connection import Connection
from sync_worker.models import Effect

_COLUMNS: Final = (
    *("key", "saga_id", "step", "tenant", "operation", "command", "request_hash", "connection", "provider", "state"),
    *("code", "detail", "provider_ref", "result", "attempt", "answered", "calls", "trace", "lease_until", "sent_at"),
    "updated_at",
)
_NAMES: Final = ", ".join(_COLUMNS)
_VALUES: Final = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
_CHANGES: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "key")
_SUMMARY: Final = """key, saga_id, step, tenant, operation, provider, state, code, detail, provider_ref, attempt,
    answered, calls, sent_at, updated_at"""


async def lock(connection: Connection, key: str) -> Effect | None:
    """Return an effect, locked until the transaction ends; waits for another transaction on it.

    A key without a row is locked too: two first commands (a zombie's, an undo beside its do) must not both be first.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key)
    row = await connection.fetchrow(f"SELECT {_NAMES} FROM effects WHERE key = $1 FOR UPDATE", key)  # noqa: S608
    return Effect(**dict(row)) if row else None


async def lock_if_free(connection: Connection, key: str) -> Effect | None:
    """Return an effect, locked, or None when it is unknown or somebody else works on it."""
    row = await connection.fetchrow(
        f"SELECT {_NAMES} FROM effects WHERE key = $1 FOR UPDATE SKIP LOCKED",  # noqa: S608
        key,
    )
    return Effect(**dict(row)) if row else None


async def save(connection: Connection, effect: Effect) -> None:
    """Write an effect as it is now."""
    await connection.execute(
        f"INSERT INTO effects ({_NAMES}) VALUES ({_VALUES}) ON CONFLICT (key) DO UPDATE SET {_CHANGES}",  # noqa: S608
        *(getattr(effect, name) for name in _COLUMNS),
    )


async def unanswered(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Return the keys of effects that nobody works on though an answer is due: a worker died, or a wake-up was lost."""
    rows = await connection.fetch(
        """SELECT key FROM effects WHERE attempt > answered AND (lease_until IS NULL OR lease_until < $1)
           ORDER BY updated_at LIMIT $2""",
        now,
        limit,
    )
    return [row["key"] for row in rows]


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` effects by key; `filters` may hold saga_id, state, tenant."""
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=3)]
    where = " AND ".join(["($1::text IS NULL OR key > $1)", *conditions])
    rows = await connection.fetch(
        f"SELECT {_SUMMARY} FROM effects WHERE {where} ORDER BY key LIMIT $2",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]
