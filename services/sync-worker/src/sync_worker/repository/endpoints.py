"""SQL for endpoints with their keys and addresses."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db import connection as db
from sync_worker.models import Endpoint, EndpointAddress, EndpointKey

_ENDPOINT: Final = (
    *("id", "connection", "url", "lane", "version", "state", "settings", "keys_issued", "republish_at"),
    "record_hash",
)
_KEY: Final = (
    *("endpoint", "key_id", "sealed", "not_before", "not_after", "created_at", "created_by", "last_used_at"),
    "warned_at",
)
_ADDRESS: Final = ("token", "endpoint", "url", "not_after", "created_at", "created_by")
# What the use cases change; `last_used_at` and `warned_at` are written by the statements below only.
_KEY_CHANGES: Final = ("sealed", "not_before", "not_after")


@dataclass(slots=True)
class Stored:
    """One endpoint with everything that its published record says. Keys and addresses are oldest first.

    `options` are those of the connection; the endpoint's own settings may hold others on top. `out_of_turn` says that
    the transaction has an older id than its turn (`serialise`), so that what it publishes must be published again.
    """

    endpoint: Endpoint
    tenant: str
    provider: str
    options: dict[str, str]
    tenant_limits: dict[str, float] | None
    keys: list[EndpointKey]
    addresses: list[EndpointAddress]
    out_of_turn: bool = False


async def connection_of(connection: db.Connection, endpoint_id: str) -> UUID | None:
    """Return the connection that an endpoint belongs to, or None."""
    found: UUID | None = await connection.fetchval("SELECT connection FROM endpoints WHERE id = $1", endpoint_id)
    return found


async def serialise(connection: db.Connection, connection_id: UUID) -> bool:
    """Let nobody else publish endpoints of a connection until the transaction ends; waits for who does already.

    The outbox leaves in the order of transaction ids, so a transaction that publishes must get its id after its turn
    came: call this before anything is written. Returns False when it had an id already (an `Idempotency-Key` was
    claimed), and its record may leave before an older one.
    """
    had_none: bool = await connection.fetchval("SELECT pg_current_xact_id_if_assigned() IS NULL")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"connection|{connection_id}")
    return had_none


async def lock(connection: db.Connection, ids: Collection[str]) -> list[Stored]:
    """Return the endpoints among `ids` that exist, in order of id, locked until the transaction ends."""
    rows = await connection.fetch("SELECT id FROM endpoints WHERE id = ANY($1) ORDER BY id FOR UPDATE", list(ids))
    # A statement of its own, so that it sees what was committed while the lock was awaited (a tenant's new limits).
    return await load(connection, [row["id"] for row in rows])


async def load(connection: db.Connection, ids: Collection[str]) -> list[Stored]:
    """Return the endpoints among `ids` that exist, in order of id."""
    wanted = list(ids)
    rows = await connection.fetch(
        """SELECT e.*, c.tenant, c.provider, c.options, t.limits
           FROM endpoints e JOIN connections c ON c.id = e.connection LEFT JOIN tenants t ON t.slug = c.tenant
           WHERE e.id = ANY($1) ORDER BY e.id""",
        wanted,
    )
    keys = await connection.fetch(
        "SELECT * FROM endpoint_secrets WHERE endpoint = ANY($1) ORDER BY length(key_id), key_id", wanted
    )
    addresses = await connection.fetch(
        "SELECT * FROM endpoint_tokens WHERE endpoint = ANY($1) ORDER BY not_after NULLS LAST, created_at", wanted
    )
    return [
        Stored(
            endpoint=Endpoint(**{name: row[name] for name in _ENDPOINT}),
            tenant=row["tenant"],
            provider=row["provider"],
            options=row["options"],
            tenant_limits=row["limits"],
            keys=[EndpointKey(**dict(key)) for key in keys if key["endpoint"] == row["id"]],
            addresses=[EndpointAddress(**dict(one)) for one in addresses if one["endpoint"] == row["id"]],
        )
        for row in rows
    ]


async def save(connection: db.Connection, stored: Stored) -> None:
    """Write an endpoint as it is now; keys and addresses that are no longer in it are deleted."""
    endpoint = stored.endpoint
    await _upsert(connection, "endpoints", ("id",), _ENDPOINT[1:], endpoint)
    await connection.execute(
        "DELETE FROM endpoint_secrets WHERE endpoint = $1 AND key_id <> ALL($2)",
        endpoint.id,
        [key.key_id for key in stored.keys],
    )
    await connection.execute(
        "DELETE FROM endpoint_tokens WHERE endpoint = $1 AND token <> ALL($2)",
        endpoint.id,
        [address.token for address in stored.addresses],
    )
    for key in stored.keys:
        await _upsert(connection, "endpoint_secrets", ("endpoint", "key_id"), _KEY_CHANGES, key)
    for address in stored.addresses:
        await _upsert(connection, "endpoint_tokens", ("token",), ("not_after",), address)


async def delete(connection: db.Connection, endpoint_id: str) -> None:
    """Delete an endpoint with its keys and addresses."""
    await connection.execute("DELETE FROM endpoints WHERE id = $1", endpoint_id)


async def search(
    connection: db.Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` endpoints in order of id; `filters` may hold tenant, provider, connection and state."""
    columns = {"tenant": "c.tenant", "provider": "c.provider", "connection": "e.connection", "state": "e.state"}
    conditions = [f"{columns[name]} = ${place}" for place, name in enumerate(filters, start=3)]
    where = " AND ".join(["($1::text IS NULL OR e.id > $1)", *conditions])
    rows = await connection.fetch(
        f"""SELECT e.id, e.connection, c.provider, c.tenant, e.url, e.state, e.lane, e.version
            FROM endpoints e JOIN connections c ON c.id = e.connection
            WHERE {where} ORDER BY e.id LIMIT $2""",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]


async def of_connection(connection: db.Connection, connection_id: UUID) -> list[str]:
    """Return the ids of a connection's endpoints."""
    rows = await connection.fetch("SELECT id FROM endpoints WHERE connection = $1 ORDER BY id", connection_id)
    return [row["id"] for row in rows]


async def mark_tenant(connection: db.Connection, tenant: str, now: datetime) -> int:
    """Make all endpoints of a tenant due for publishing; returns how many there are."""
    marked: int = await connection.fetchval(
        """WITH owned AS (SELECT e.id FROM endpoints e JOIN connections c ON c.id = e.connection
                          WHERE c.tenant = $1 ORDER BY e.id FOR UPDATE OF e),
                due AS (UPDATE endpoints SET republish_at = $2 FROM owned WHERE endpoints.id = owned.id RETURNING 1)
           SELECT count(*) FROM due""",
        tenant,
        now,
    )
    return marked


async def lock_due(connection: db.Connection, now: datetime, limit: int) -> list[Stored]:
    """Return up to `limit` endpoints whose record is due, locked; those that somebody else works on are left out."""
    rows = await connection.fetch(
        """SELECT id FROM (SELECT id, connection FROM endpoints WHERE republish_at <= $1
                           ORDER BY republish_at LIMIT $2) AS due
           WHERE pg_try_advisory_xact_lock(hashtextextended('connection|' || connection, 0))""",
        now,
        limit,
    )
    found = await lock(connection, [row["id"] for row in rows])
    return [one for one in found if one.endpoint.republish_at is not None and one.endpoint.republish_at <= now]


async def postpone(connection: db.Connection, endpoint_id: str, until: datetime) -> None:
    """Make an endpoint due later: its record cannot be made right now."""
    await connection.execute("UPDATE endpoints SET republish_at = $2 WHERE id = $1", endpoint_id, until)


async def note_uses(connection: db.Connection, uses: dict[tuple[str, str], datetime]) -> None:
    """Write when keys, by (endpoint, key id), were used last; older knowledge never replaces newer.

    A key that another transaction holds is left out: it is being written by someone, and the hot path must not wait.
    """
    await connection.execute(
        """UPDATE endpoint_secrets k SET last_used_at = used.at
           FROM (SELECT k.endpoint, k.key_id, u.at
                 FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS u (endpoint, key_id, at)
                 JOIN endpoint_secrets k USING (endpoint, key_id)
                 WHERE k.last_used_at IS NULL OR k.last_used_at < u.at
                 FOR UPDATE OF k SKIP LOCKED) AS used
           WHERE (k.endpoint, k.key_id) = (used.endpoint, used.key_id)""",
        [endpoint for endpoint, _ in uses],
        [key_id for _, key_id in uses],
        list(uses.values()),
    )


async def ending_in_use(
    connection: db.Connection, now: datetime, ends_before: datetime, used_since: datetime
) -> list[dict[str, Any]]:
    """Return the keys that end before `ends_before` and were used since `used_since`, with endpoint and tenant.

    Only those whose endpoint has had a newer valid key for that whole time: a use before a rotation is no surprise.
    """
    rows = await connection.fetch(
        """SELECT k.endpoint, k.key_id, k.not_after, k.last_used_at, k.warned_at, c.tenant
           FROM endpoint_secrets k JOIN endpoints e ON e.id = k.endpoint JOIN connections c ON c.id = e.connection
           WHERE k.not_after > $1 AND k.not_after <= $2 AND k.last_used_at >= $3
             AND EXISTS (SELECT 1 FROM endpoint_secrets newer
                         WHERE newer.endpoint = k.endpoint AND newer.created_at > k.created_at
                           AND greatest(newer.created_at, newer.not_before) <= $3)
           ORDER BY k.endpoint, k.key_id""",
        *(now, ends_before, used_since),
    )
    return [dict(row) for row in rows]


async def mark_warned(connection: db.Connection, endpoint: str, key_id: str, now: datetime) -> bool:
    """Remember that a key's owner was warned; False when that had happened before."""
    marked = await connection.fetchval(
        """UPDATE endpoint_secrets SET warned_at = $3
           WHERE endpoint = $1 AND key_id = $2 AND warned_at IS NULL RETURNING 1""",
        *(endpoint, key_id, now),
    )
    return marked is not None


async def _upsert(
    connection: db.Connection, table: str, identity: Sequence[str], changes: Sequence[str], row: Any
) -> None:
    columns = {"endpoints": _ENDPOINT, "endpoint_secrets": _KEY, "endpoint_tokens": _ADDRESS}[table]
    names, places = ", ".join(columns), ", ".join(f"${place}" for place in range(1, len(columns) + 1))
    changed = ", ".join(f"{name} = excluded.{name}" for name in changes)
    await connection.execute(
        f"""INSERT INTO {table} ({names}) VALUES ({places})
            ON CONFLICT ({", ".join(identity)}) DO UPDATE SET {changed}""",  # noqa: S608 (names, never values)
        *(getattr(row, name) for name in columns),
    )
