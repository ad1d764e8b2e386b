"""SQL for credentials: their versions, and the lease under which one worker of the fleet asks for the next token.

All instants are the database's: a worker whose clock is wrong must not think that another's lease is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db import connection as db
from sync_worker.models import Connection, Credential

# The kind of the row that holds a connection's tokens; no manifest can call a secret so.
OAUTH: Final = "oauth"
_COLUMNS: Final = ("connection", "kind", "version", "tenant", "state", "sealed", "expires_at", "refresh_after")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A connection with its active credentials at one instant of the database's clock."""

    connection: Connection
    credentials: tuple[Credential, ...]
    now: datetime

    @property
    def tokens(self) -> Credential | None:
        """The row of the OAuth tokens, None for a connection that has none."""
        return next((one for one in self.credentials if one.kind == OAUTH), None)

    @property
    def version(self) -> int:
        """A number that grows whenever one of the credentials gets a new version."""
        return sum(one.version for one in self.credentials)


async def snapshot(connection: db.Connection, connection_id: UUID) -> Snapshot | None:
    """Return a connection with its active credentials, None when it is unknown."""
    row = await connection.fetchrow("SELECT *, clock_timestamp() AS now FROM connections WHERE id = $1", connection_id)
    if row is None:
        return None
    fields = dict(row)
    now = fields.pop("now")
    return Snapshot(Connection(**fields), tuple(await active(connection, connection_id)), now)


async def active(connection: db.Connection, connection_id: UUID) -> list[Credential]:
    """Return the active version of each credential of a connection."""
    rows = await connection.fetch(
        "SELECT * FROM credentials WHERE connection = $1 AND state = 'active' ORDER BY kind", connection_id
    )
    return [Credential(**dict(row)) for row in rows]


async def insert(connection: db.Connection, new: Sequence[Credential]) -> None:
    """Store credentials."""
    places = ", ".join(f"${number}" for number in range(1, len(_COLUMNS) + 1))
    await connection.executemany(
        f"INSERT INTO credentials ({', '.join(_COLUMNS)}) VALUES ({places})",  # noqa: S608 (names, never values)
        [tuple(getattr(one, name) for name in _COLUMNS) for one in new],
    )


async def next_version(connection: db.Connection, connection_id: UUID, kind: str) -> int:
    """Return the version that the next credential of a kind gets; the caller holds the connection's row."""
    newest: int = await connection.fetchval(
        "SELECT coalesce(max(version), 0) FROM credentials WHERE connection = $1 AND kind = $2", connection_id, kind
    )
    return newest + 1


async def supersede(connection: db.Connection, new: Credential) -> None:
    """Make a credential the active one of its kind; the one before is revoked and its text is gone."""
    await connection.execute(
        """UPDATE credentials SET state = 'revoked', sealed = '', lease_owner = '', lease_until = NULL
           WHERE connection = $1 AND kind = $2 AND state = 'active'""",
        new.connection,
        new.kind,
    )
    await insert(connection, [new])


async def delete(connection: db.Connection, connection_id: UUID) -> None:
    """Delete all credentials of a connection."""
    await connection.execute("DELETE FROM credentials WHERE connection = $1", connection_id)


async def lock_tokens(connection: db.Connection, connection_id: UUID) -> Credential | None:
    """Return the row of the tokens, locked until the transaction ends."""
    row = await connection.fetchrow(
        "SELECT * FROM credentials WHERE connection = $1 AND kind = $2 AND state = 'active' FOR UPDATE",
        *(connection_id, OAUTH),
    )
    return Credential(**dict(row)) if row else None


async def claim(
    connection: db.Connection, connection_id: UUID, version: int, owner: str, *, lease_s: float, cooldown_s: float
) -> bool:
    """Take the lease on the tokens of this version; False when it moved, is leased, or failed a moment ago."""
    claimed = await connection.fetchval(
        """UPDATE credentials SET lease_owner = $4, lease_until = clock_timestamp() + $5 * interval '1 second'
           WHERE connection = $1 AND kind = $2 AND version = $3 AND state = 'active'
               AND (lease_until IS NULL OR lease_until < clock_timestamp())
               AND (failed_at IS NULL OR failed_at < clock_timestamp() - $6 * interval '1 second')
           RETURNING 1""",
        *(connection_id, OAUTH, version, owner, lease_s, cooldown_s),
    )
    return claimed is not None


async def store(
    connection: db.Connection,
    tokens: Credential,
    sealed: bytes,
    *,
    lifetime_s: float | None,
    refresh_in_s: float | None,
    owner: str,
) -> bool:
    """Replace tokens by their next version and end the lease; False when another has moved them meanwhile.

    This is the fence: it holds only while the version is the one that was read and the lease still `owner`'s.
    """
    stored = await connection.fetchval(
        """UPDATE credentials SET version = version + 1, sealed = $5, lease_owner = '', lease_until = NULL,
               failed_at = NULL, expires_at = clock_timestamp() + $6 * interval '1 second',
               refresh_after = clock_timestamp() + $7 * interval '1 second'
           WHERE connection = $1 AND kind = $2 AND version = $3 AND lease_owner = $4 AND state = 'active'
           RETURNING 1""",
        *(tokens.connection, OAUTH, tokens.version, owner, sealed, lifetime_s, refresh_in_s),
    )
    return stored is not None


async def fail(connection: db.Connection, tokens: Credential, owner: str) -> bool:
    """Note that no token could be got, and end the lease; False when another has moved them meanwhile."""
    noted = await connection.fetchval(
        """UPDATE credentials SET failed_at = clock_timestamp(), lease_owner = '', lease_until = NULL
           WHERE connection = $1 AND kind = $2 AND version = $3 AND lease_owner = $4 RETURNING 1""",
        *(tokens.connection, OAUTH, tokens.version, owner),
    )
    return noted is not None


async def due(connection: db.Connection, limit: int, cooldown_s: float) -> list[tuple[UUID, int]]:
    """Return connections whose tokens should be refreshed and are not being, most urgent first, with the version."""
    rows = await connection.fetch(
        """SELECT t.connection, t.version FROM credentials t JOIN connections c ON c.id = t.connection
           WHERE t.state = 'active' AND t.refresh_after <= clock_timestamp()
               AND (t.lease_until IS NULL OR t.lease_until < clock_timestamp())
               AND (t.failed_at IS NULL OR t.failed_at < clock_timestamp() - $2 * interval '1 second')
               AND c.state IN ('matching', 'backfilling', 'live', 'limited', 'paused')
           ORDER BY t.refresh_after LIMIT $1""",
        limit,
        cooldown_s,
    )
    return [(row["connection"], row["version"]) for row in rows]


async def prepare(connection: db.Connection, new: Sequence[Credential], *, requested_by: str, abandon_s: float) -> None:
    """Store credentials as `next`: they are used by nobody yet, and dropped after `abandon_s`."""
    await insert(connection, new)
    await connection.executemany(
        """UPDATE credentials SET requested_by = $4, due_at = clock_timestamp() + $5 * interval '1 second'
           WHERE connection = $1 AND kind = $2 AND version = $3""",
        [(one.connection, one.kind, one.version, requested_by, abandon_s) for one in new],
    )


async def in_rotation(connection: db.Connection, connection_id: UUID) -> list[Credential]:
    """Return the `next` and `draining` credentials of a connection."""
    rows = await connection.fetch(
        "SELECT * FROM credentials WHERE connection = $1 AND state IN ('next', 'draining') ORDER BY kind, version",
        connection_id,
    )
    return [Credential(**dict(row)) for row in rows]


async def flip(connection: db.Connection, connection_id: UUID, drain_s: float) -> dict[str, int]:
    """Make the `next` credentials of a connection active and let the ones before drain for `drain_s`.

    What is flipped in one transaction ends at one instant. Returns the versions that are active now; the caller holds
    the connection's row and knows that there are some.
    """
    await connection.execute(
        """UPDATE credentials SET state = 'draining', due_at = now() + $2 * interval '1 second'
           WHERE connection = $1 AND state = 'active'
               AND kind IN (SELECT kind FROM credentials WHERE connection = $1 AND state = 'next')""",
        *(connection_id, drain_s),
    )
    rows = await connection.fetch(
        """UPDATE credentials SET state = 'active', due_at = NULL WHERE connection = $1 AND state = 'next'
           RETURNING kind, version""",
        connection_id,
    )
    return {row["kind"]: row["version"] for row in rows}


async def drain_tokens(connection: db.Connection, old: Credential, drain_s: float) -> None:
    """Keep tokens that have just been replaced, so that they can be ended at the provider after `drain_s`."""
    await connection.execute(
        """INSERT INTO credentials (connection, kind, version, tenant, state, sealed, expires_at, due_at)
           VALUES ($1, $2, $3, $4, 'draining', $5, $6, now() + $7 * interval '1 second')""",
        *(old.connection, old.kind, old.version, old.tenant, old.sealed, old.expires_at, drain_s),
    )


async def drop_next(connection: db.Connection, connection_id: UUID, *, due_only: bool = False) -> dict[str, int]:
    """Delete the `next` credentials of a connection, or only those that are abandoned; returns what there was."""
    rows = await connection.fetch(
        """DELETE FROM credentials WHERE connection = $1 AND state = 'next'
               AND (NOT $2 OR due_at <= clock_timestamp()) RETURNING kind, version""",
        *(connection_id, due_only),
    )
    return {row["kind"]: row["version"] for row in rows}


async def rotations_due(connection: db.Connection, limit: int) -> list[tuple[UUID, str]]:
    """Return connections with credentials to be dropped (`next`) or ended (`draining`), earliest first."""
    rows = await connection.fetch(
        """SELECT connection, state FROM credentials
           WHERE due_at <= clock_timestamp() AND state IN ('next', 'draining')
               AND (lease_until IS NULL OR lease_until < clock_timestamp())
           GROUP BY connection, state ORDER BY min(due_at) LIMIT $1""",
        limit,
    )
    return [(row["connection"], row["state"]) for row in rows]


async def claim_draining(
    connection: db.Connection, connection_id: UUID, owner: str, *, lease_s: float
) -> list[Credential]:
    """Take the lease on the drained credentials of a connection and return them; empty when another has it."""
    rows = await connection.fetch(
        """UPDATE credentials SET lease_owner = $2, lease_until = clock_timestamp() + $3 * interval '1 second'
           WHERE connection = $1 AND state = 'draining' AND due_at <= clock_timestamp()
               AND (lease_until IS NULL OR lease_until < clock_timestamp()) RETURNING *""",
        *(connection_id, owner, lease_s),
    )
    return [Credential(**dict(row)) for row in rows]


async def end_draining(connection: db.Connection, connection_id: UUID, owner: str, old_check: str) -> dict[str, int]:
    """Revoke the drained credentials that `owner` has the lease on; their text is gone. Returns which they were."""
    rows = await connection.fetch(
        """UPDATE credentials SET state = 'revoked', sealed = '', due_at = NULL, lease_owner = '', lease_until = NULL,
               old_check = $3
           WHERE connection = $1 AND state = 'draining' AND lease_owner = $2 RETURNING kind, version""",
        *(connection_id, owner, old_check),
    )
    return {row["kind"]: row["version"] for row in rows}


async def versions(connection: db.Connection, connection_id: UUID) -> list[dict[str, Any]]:
    """Return every version of the credentials of a connection for people, newest first; nothing of their text."""
    rows = await connection.fetch(
        """SELECT kind, version, state, expires_at, due_at, requested_by, old_check, key_version FROM credentials
           WHERE connection = $1 ORDER BY kind, version DESC""",
        connection_id,
    )
    return [dict(row) for row in rows]


async def on_old_keys(
    connection: db.Connection, key_version: int, after: Credential | None, limit: int
) -> list[Credential]:
    """Return credentials that an older key wraps than `key_version`, those that follow `after` in order of the key."""
    rows = await connection.fetch(
        """SELECT * FROM credentials WHERE sealed <> '' AND key_version < $1
               AND ($2::uuid IS NULL OR (connection, kind, version) > ($2, $3, $4))
           ORDER BY connection, kind, version LIMIT $5""",
        *(key_version, *((after.connection, after.kind, after.version) if after else (None, None, None)), limit),
    )
    return [Credential(**dict(row)) for row in rows]


async def count_on_old_keys(connection: db.Connection, key_version: int) -> int:
    """Return how many credentials an older key wraps than `key_version`."""
    found: int = await connection.fetchval(
        "SELECT count(*) FROM credentials WHERE sealed <> '' AND key_version < $1", key_version
    )
    return found


async def rewrap(connection: db.Connection, old: Credential, sealed: bytes) -> bool:
    """Replace a sealed value by the same one under another key; False when it was replaced or ended meanwhile."""
    done = await connection.fetchval(
        """UPDATE credentials SET sealed = $5 WHERE connection = $1 AND kind = $2 AND version = $3 AND sealed = $4
           RETURNING 1""",
        *(old.connection, old.kind, old.version, old.sealed, sealed),
    )
    return done is not None


async def earliest_expiry(connection: db.Connection) -> dict[str, datetime]:
    """Return when the first token ends, by provider, of connections that are not over."""
    rows = await connection.fetch(
        """SELECT c.provider, min(t.expires_at) AS ends FROM credentials t JOIN connections c ON c.id = t.connection
           WHERE t.state = 'active' AND t.expires_at IS NOT NULL AND c.state NOT IN ('revoked', 'erased')
           GROUP BY c.provider"""
    )
    return {row["provider"]: row["ends"] for row in rows}
