"""SQL for connections and their credentials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chassis.db import connection as db
from sync_worker.models import Connection, Credential


async def insert(connection: db.Connection, new: Connection, credentials: Sequence[Credential]) -> bool:
    """Store a connection with its secrets; False when the account is connected already."""
    inserted = await connection.fetchval(
        """INSERT INTO connections (id, tenant, provider, account_ref, state, options, created_at, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING 1""",
        *(new.id, new.tenant, new.provider, new.account_ref, new.state, new.options, new.created_at, new.created_by),
    )
    if not inserted:
        return False
    await connection.executemany(
        "INSERT INTO credentials (connection, name, version, sealed) VALUES ($1, $2, $3, $4)",
        [(c.connection, c.name, c.version, c.sealed) for c in credentials],
    )
    return True


async def get(connection: db.Connection, connection_id: UUID) -> dict[str, Any] | None:
    """Return a connection with its endpoints and the names of its secrets."""
    row = await connection.fetchrow(
        """SELECT c.*, (SELECT coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'url', e.url) ORDER BY e.id), '[]')
                        FROM endpoints e WHERE e.connection = c.id) AS endpoints,
                  (SELECT coalesce(jsonb_agg(DISTINCT s.name), '[]') FROM credentials s WHERE s.connection = c.id)
                      AS secrets
           FROM connections c WHERE c.id = $1""",
        connection_id,
    )
    return dict(row) if row else None


async def search(
    connection: db.Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` connections in order of id; `filters` may hold tenant, provider and state."""
    names = list(filters)
    conditions = [f"{name} = ${place}" for place, name in enumerate(names, start=3)]
    where = " AND ".join(["($1::text IS NULL OR id > $1::text::uuid)", *conditions])
    rows = await connection.fetch(
        f"""SELECT id, tenant, provider, account_ref, state, created_at FROM connections
            WHERE {where} ORDER BY id LIMIT $2""",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]


async def revoke(connection: db.Connection, connection_id: UUID) -> list[str] | None:
    """Revoke a live connection, delete its secrets and endpoints and return the endpoints' ids; None if unknown."""
    tenant = await connection.fetchval(
        "UPDATE connections SET state = 'revoked' WHERE id = $1 AND state = 'live' RETURNING tenant", connection_id
    )
    if tenant is None:
        return None
    await connection.execute("DELETE FROM credentials WHERE connection = $1", connection_id)
    rows = await connection.fetch("DELETE FROM endpoints WHERE connection = $1 RETURNING id", connection_id)
    return [row["id"] for row in rows]


async def credentials(connection: db.Connection, connection_id: UUID) -> list[Credential]:
    """Return the newest version of each secret of a connection."""
    rows = await connection.fetch(
        """SELECT DISTINCT ON (name) connection, name, version, sealed FROM credentials
           WHERE connection = $1 ORDER BY name, version DESC""",
        connection_id,
    )
    return [Credential(**dict(row)) for row in rows]


async def live(connection: db.Connection, tenant: str | None, providers: Sequence[str]) -> list[Connection]:
    """Return the live connections of a tenant (or of all) at any of `providers`, oldest first."""
    rows = await connection.fetch(
        """SELECT * FROM connections WHERE state = 'live' AND provider = ANY($2) AND ($1::text IS NULL OR tenant = $1)
           ORDER BY created_at, id""",
        tenant,
        list(providers),
    )
    return [Connection(**dict(row)) for row in rows]


async def live_for_account(connection: db.Connection, connection_id: UUID) -> Connection | None:
    """Return the live connection of the account that `connection_id` connects or once connected, or None."""
    row = await connection.fetchrow(
        """SELECT live.* FROM connections live JOIN connections known USING (tenant, provider, account_ref)
           WHERE known.id = $1 AND live.state = 'live'""",
        connection_id,
    )
    return Connection(**dict(row)) if row else None


async def by_id(connection: db.Connection, connection_id: UUID) -> Connection | None:
    """Return a connection whatever its state."""
    row = await connection.fetchrow("SELECT * FROM connections WHERE id = $1", connection_id)
    return Connection(**dict(row)) if row else None
