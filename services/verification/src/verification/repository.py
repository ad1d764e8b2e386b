"""All SQL of the verification service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from chassis.db.connection import Connection
from verification.audit_chain import Entry, Head
from verification.tags import Tag

# One writer of the audit chain at a time, whatever the number of replicas.
_AUDIT_LOCK: Final = 7_242_001
_AUDIT_COLUMNS: Final = ", ".join(field.name for field in fields(Entry))


@dataclass(frozen=True, slots=True)
class Attestation:
    """A row of `verification`."""

    subject_id: UUID
    tenant: str
    customer_ref: bytes
    verification_id: UUID
    epoch: int
    status: Literal["verified", "refused", "revoked"]
    outcome: str
    thresholds_passed: tuple[int, ...]
    assurance: str
    provider: str
    rule_version: str
    verified_at: datetime
    expires_at: datetime | None
    identity_tag: bytes | None
    evidence_ref: str

    def live(self, now: datetime) -> bool:
        """Tell whether the attestation says "verified" at `now`."""
        return self.status == "verified" and self.expires_at is not None and now < self.expires_at


_COLUMNS: Final = tuple(field.name for field in fields(Attestation))


async def lock_customer(connection: Connection, customer: Tag) -> None:
    """Let one transaction at a time decide about a customer, also one that has no row yet."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock($1)", int.from_bytes(customer.current[:8], "big", signed=True)
    )


async def attestation_of(connection: Connection, tenant: str, customer: Tag) -> Attestation | None:
    """Return what is known of a customer, whichever key its reference was made with."""
    row = await connection.fetchrow(
        f"SELECT {', '.join(_COLUMNS)} FROM verification WHERE tenant = $1 AND customer_ref = ANY($2)",  # noqa: S608
        tenant,
        list(customer.all),
    )
    if row is None:
        return None
    values: dict[str, Any] = dict(row)
    return Attestation(**values | {"thresholds_passed": tuple(row["thresholds_passed"])})


async def save_attestation(connection: Connection, attestation: Attestation) -> None:
    """Write an attestation, replacing the subject's earlier one."""
    places = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
    updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "subject_id")
    await connection.execute(
        f"""INSERT INTO verification ({", ".join(_COLUMNS)}) VALUES ({places})
            ON CONFLICT (subject_id) DO UPDATE SET {updates}""",  # noqa: S608 (column names of ours)
        *(list(v) if isinstance(v, tuple) else v for v in (getattr(attestation, name) for name in _COLUMNS)),
    )


@dataclass(frozen=True, slots=True)
class AttemptLimit:
    """How many attempts fit in a window: from `now` until `resets_at` if it starts now."""

    limit: int
    now: datetime
    resets_at: datetime


async def reserve_attempt(
    connection: Connection, tenant: str, kind: str, tag: bytes, limit: AttemptLimit
) -> tuple[bool, datetime]:
    """Use one attempt if there is one left; returns whether there was, and when the window ends.

    Atomic: concurrent calls never get more than the limit between them.
    """
    ends = await connection.fetchval(
        """INSERT INTO attempts (tenant, kind, tag, used, resets_at) VALUES ($1, $2, $3, 1, $4)
           ON CONFLICT (tenant, kind, tag) DO UPDATE SET
               used = CASE WHEN attempts.resets_at <= $5 THEN 1 ELSE attempts.used + 1 END,
               resets_at = CASE WHEN attempts.resets_at <= $5 THEN excluded.resets_at ELSE attempts.resets_at END
           WHERE attempts.used < $6 OR attempts.resets_at <= $5
           RETURNING resets_at""",
        tenant,
        kind,
        tag,
        limit.resets_at,
        limit.now,
        limit.limit,
    )
    if ends is not None:
        return True, ends
    row = await connection.fetchrow(
        "SELECT resets_at FROM attempts WHERE tenant = $1 AND kind = $2 AND tag = $3", tenant, kind, tag
    )
    return False, row["resets_at"] if row is not None else limit.resets_at


async def refund_attempt(connection: Connection, tenant: str, kind: str, tag: bytes, window_end: datetime) -> None:
    """Give one attempt back, unless its window is over."""
    await connection.execute(
        """UPDATE attempts SET used = used - 1
           WHERE tenant = $1 AND kind = $2 AND tag = $3 AND resets_at = $4 AND used > 0""",
        tenant,
        kind,
        tag,
        window_end,
    )


async def forget_attempts(connection: Connection, before: datetime) -> None:
    """Delete windows that ended before an instant."""
    await connection.execute("DELETE FROM attempts WHERE resets_at < $1", before)


async def lock_audit_head(connection: Connection) -> Head:
    """Return the end of the audit chain; nobody else extends it until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _AUDIT_LOCK)
    row = await connection.fetchrow("SELECT index, hash FROM audit_log ORDER BY index DESC LIMIT 1")
    return Head() if row is None else Head(row["index"], row["hash"])


async def audited(connection: Connection, audit_ids: Sequence[UUID]) -> set[UUID]:
    """Return which of these events are in the log."""
    rows = await connection.fetch("SELECT audit_id FROM audit_log WHERE audit_id = ANY($1)", audit_ids)
    return {row["audit_id"] for row in rows}


async def append_audit(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add entries to the log."""
    names = [field.name for field in fields(Entry)]
    places = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    await connection.executemany(
        f"INSERT INTO audit_log ({_AUDIT_COLUMNS}) VALUES ({places})",  # noqa: S608 (column names of ours)
        [tuple(getattr(entry, name) for name in names) for entry in entries],
    )


async def audit_chunk(connection: Connection, after: int, limit: int) -> list[Entry]:
    """Return up to `limit` entries behind an index, oldest first."""
    rows = await connection.fetch(
        f"SELECT {_AUDIT_COLUMNS} FROM audit_log WHERE index > $1 ORDER BY index LIMIT $2",  # noqa: S608
        after,
        limit,
    )
    return [Entry(**dict(row)) for row in rows]


async def audit_size(connection: Connection) -> int:
    """Return how many entries the log has."""
    count: int = await connection.fetchval("SELECT count(*) FROM audit_log")
    return count


async def search_audit(
    connection: Connection, *, action: str | None, tenant: str | None, before: int | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` entries, newest first, that match the filters and stand before an index."""
    rows = await connection.fetch(
        f"""SELECT {_AUDIT_COLUMNS} FROM audit_log
            WHERE ($1::text IS NULL OR action = $1) AND ($2::text IS NULL OR tenant = $2)
              AND ($3::bigint IS NULL OR index < $3)
            ORDER BY index DESC LIMIT $4""",  # noqa: S608 (column names of ours)
        action,
        tenant,
        before,
        limit,
    )
    return [dict(row) for row in rows]
