"""SQL for connections. Row-level security hides other tenants' rows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from chassis.db import connection as db
from contracts.modes import Mode
from sync_worker.connections.states import CALLABLE, ENDED
from sync_worker.models import Connection, Credential
from sync_worker.repository import credentials

_COLUMNS: Final = (
    *("id", "tenant", "provider", "account_ref", "mode", "state", "reason", "method", "options", "scopes"),
    *("missing_scopes", "last_test", "version", "created_at", "created_by"),
)
_CHANGING: Final = ("account_ref", "state", "reason", "method", "options", "scopes", "missing_scopes", "version")
_CALLABLE: Final = sorted(CALLABLE)
_ENDED: Final = sorted(ENDED)


async def insert(connection: db.Connection, new: Connection, secrets: Sequence[Credential]) -> bool:
    """Store a connection with its secrets; False when the account is connected already in this mode."""
    places = ", ".join(f"${number}" for number in range(1, len(_COLUMNS) + 1))
    inserted = await connection.fetchval(
        f"""INSERT INTO connections ({", ".join(_COLUMNS)}) VALUES ({places})
            ON CONFLICT DO NOTHING RETURNING 1""",  # noqa: S608 (names, never values)
        *(getattr(new, name) for name in _COLUMNS),
    )
    if not inserted:
        return False
    await credentials.insert(connection, secrets)
    return True


async def get(connection: db.Connection, connection_id: UUID) -> dict[str, Any] | None:
    """Return a connection with its endpoints and the kinds of its active secrets."""
    row = await connection.fetchrow(
        """SELECT c.*, (SELECT coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'url', e.url) ORDER BY e.id), '[]')
                        FROM endpoints e WHERE e.connection = c.id) AS endpoints,
                  (SELECT coalesce(jsonb_agg(s.kind ORDER BY s.kind), '[]') FROM credentials s
                   WHERE s.connection = c.id AND s.state = 'active' AND s.sealed <> '') AS secrets,
                  (SELECT max(s.expires_at) FROM credentials s WHERE s.connection = c.id AND s.state = 'active')
                      AS token_expires_at
           FROM connections c WHERE c.id = $1""",
        connection_id,
    )
    return dict(row) if row else None


async def search(
    connection: db.Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` connections in order of id; `filters` may hold tenant, provider, mode and state."""
    names = list(filters)
    conditions = [f"{name} = ${place}" for place, name in enumerate(names, start=3)]
    where = " AND ".join(["($1::text IS NULL OR id > $1::text::uuid)", *conditions])
    rows = await connection.fetch(
        f"""SELECT id, tenant, provider, account_ref, mode, state, reason, method, version, created_at
            FROM connections WHERE {where} ORDER BY id LIMIT $2""",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]


async def save(connection: db.Connection, changed: Connection) -> None:
    """Write a connection as it is now, as its next version; the caller holds its row (`lock`)."""
    changed.version += 1
    settings = ", ".join(f"{name} = ${place}" for place, name in enumerate(_CHANGING, start=2))
    await connection.execute(
        f"UPDATE connections SET {settings} WHERE id = $1",  # noqa: S608 (names, never values)
        changed.id,
        *(getattr(changed, name) for name in _CHANGING),
    )


async def note_test(connection: db.Connection, connection_id: UUID, result: dict[str, Any]) -> None:
    """Remember how the last test call ended; no change of the connection itself."""
    await connection.execute("UPDATE connections SET last_test = $2 WHERE id = $1", connection_id, result)


async def delete_endpoints(connection: db.Connection, connection_id: UUID) -> list[str]:
    """Delete the endpoints of a connection and return their ids."""
    rows = await connection.fetch("DELETE FROM endpoints WHERE connection = $1 RETURNING id", connection_id)
    return [row["id"] for row in rows]


async def live(
    connection: db.Connection, tenant: str | None, providers: Sequence[str], mode: Mode = "live"
) -> list[Connection]:
    """Return the connections of a tenant (or of all) at any of `providers` that may be called, oldest first.

    Those of one mode only: a sandbox's work never reaches a live account, nor the other way round.
    """
    rows = await connection.fetch(
        """SELECT * FROM connections WHERE state = ANY($4) AND mode = $3 AND provider = ANY($2)
               AND ($1::text IS NULL OR tenant = $1)
           ORDER BY created_at, id""",
        *(tenant, list(providers), mode, _CALLABLE),
    )
    return [Connection(**dict(row)) for row in rows]


async def live_for_account(connection: db.Connection, connection_id: UUID) -> Connection | None:
    """Return the connection that may be called for the account that `connection_id` connects or once connected."""
    row = await connection.fetchrow(
        """SELECT live.* FROM connections live JOIN connections known USING (tenant, provider, account_ref, mode)
           WHERE known.id = $1 AND live.state = ANY($2)
           ORDER BY live.id = known.id DESC LIMIT 1""",
        *(connection_id, _CALLABLE),
    )
    return Connection(**dict(row)) if row else None


async def of_account(connection: db.Connection, like: Connection, account_ref: str) -> Connection | None:
    """Return the connection of the same tenant, provider and mode that holds an account already, locked, or None.

    Others that look for the same account wait until the transaction ends, so that one of them becomes its connection.
    """
    place = f"{like.tenant}|{like.provider}|{like.mode}|{account_ref}"
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", place)
    row = await connection.fetchrow(
        """SELECT * FROM connections WHERE tenant = $1 AND provider = $2 AND mode = $3 AND account_ref = $4
               AND state <> ALL($5) FOR UPDATE""",
        *(like.tenant, like.provider, like.mode, account_ref, _ENDED),
    )
    return Connection(**dict(row)) if row else None


async def by_id(connection: db.Connection, connection_id: UUID) -> Connection | None:
    """Return a connection whatever its state."""
    row = await connection.fetchrow("SELECT * FROM connections WHERE id = $1", connection_id)
    return Connection(**dict(row)) if row else None


async def lock(connection: db.Connection, connection_id: UUID) -> Connection | None:
    """Return a connection whatever its state, locked until the transaction ends."""
    row = await connection.fetchrow("SELECT * FROM connections WHERE id = $1 FOR UPDATE", connection_id)
    return Connection(**dict(row)) if row else None
