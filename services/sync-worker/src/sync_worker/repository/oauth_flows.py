"""SQL for OAuth flows: each is used once, whatever comes of it."""

from __future__ import annotations

from uuid import UUID

from chassis.db import connection as db
from sync_worker.models import OAuthFlow


async def insert(connection: db.Connection, new: OAuthFlow) -> None:
    """Store a flow, and drop those that ended long ago."""
    await connection.execute("DELETE FROM oauth_flows WHERE expires_at < clock_timestamp() - interval '1 day'")
    await connection.execute(
        """INSERT INTO oauth_flows
               (state_hash, connection, tenant, verifier, redirect_uri, scopes, expires_at, created_by)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        *(new.state_hash, new.connection, new.tenant, new.verifier, new.redirect_uri, new.scopes, new.expires_at),
        new.created_by,
    )


async def take(connection: db.Connection, state_hash: bytes) -> tuple[OAuthFlow, bool] | None:
    """Delete a flow and return it, with whether it had not ended; None when there is none."""
    row = await connection.fetchrow(
        "DELETE FROM oauth_flows WHERE state_hash = $1 RETURNING *, expires_at >= clock_timestamp() AS alive",
        state_hash,
    )
    if row is None:
        return None
    fields = dict(row)
    alive: bool = fields.pop("alive")
    return OAuthFlow(**fields), alive


async def delete(connection: db.Connection, connection_id: UUID) -> None:
    """End all flows of a connection."""
    await connection.execute("DELETE FROM oauth_flows WHERE connection = $1", connection_id)
