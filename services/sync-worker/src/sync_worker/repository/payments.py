"""SQL for canonical payments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from chassis.db.connection import Connection
from contracts.errors import Transient
from sync_worker.models import Payment

_COLUMNS: Final = {
    "id": "uuid",
    "tenant": "text",
    "provider": "text",
    "connection": "uuid",
    "external_id": "text",
    "status": "text",
    "amount": "bigint",
    "amount_refunded": "bigint",
    "currency": "text",
    "contact": "bytea",
    "fence": "bigint",
    "amount_fence": "bigint",
    "refunded_fence": "bigint",
    "contact_fence": "bigint",
    "version": "bigint",
    "occurred_at": "timestamptz",
    "updated_at": "timestamptz",
}
_NAMES: Final = ", ".join(_COLUMNS)
_ARRAYS: Final = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(_COLUMNS.values(), start=1))
_CHANGES: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "id")
# The contact is personal and sealed, the fences say nothing to a reader: neither is ever shown.
PRIVATE: Final = frozenset({"contact", "fence", "amount_fence", "refunded_fence", "contact_fence"})
_PUBLIC: Final = ", ".join(name for name in _COLUMNS if name not in PRIVATE)


async def lock(connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Payment]:
    """Return the payments among `ids` that exist, locked in id order until the transaction ends."""
    rows = await connection.fetch(
        f"SELECT {_NAMES} FROM payments WHERE id = ANY($1) ORDER BY id FOR UPDATE",  # noqa: S608
        list(ids),
    )
    return {row["id"]: Payment(**dict(row)) for row in rows}


async def upsert(connection: Connection, payments: Sequence[Payment]) -> None:
    """Write payments as they are now, all or none.

    Raises `Transient` (`payment_moved`) when another member wrote one since `lock`, which can only be a first insert (a
    lane of its own, a zombie): the whole unit of work must be done again on top of its row.
    """
    ordered = sorted(payments, key=lambda payment: payment.id)
    columns = [[getattr(payment, name) for payment in ordered] for name in _COLUMNS]
    written = await connection.fetch(
        f"""INSERT INTO payments ({_NAMES}) SELECT * FROM unnest({_ARRAYS})
            ON CONFLICT (id) DO UPDATE SET {_CHANGES} WHERE payments.version < excluded.version
            RETURNING id""",  # noqa: S608
        *columns,
    )
    if len(written) < len(ordered):
        raise Transient("payment_moved", "another member wrote this payment first")


async def get(connection: Connection, payment_id: UUID) -> Payment | None:
    """Return one payment with everything."""
    row = await connection.fetchrow(f"SELECT {_NAMES} FROM payments WHERE id = $1", payment_id)  # noqa: S608
    return Payment(**dict(row)) if row else None


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` payments, latest change first; `filters` by column equality."""
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=4)]
    where = " AND ".join(
        ["($1::text IS NULL OR (updated_at, id) < ($1::text::timestamptz, $2::text::uuid))", *conditions]
    )
    rows = await connection.fetch(
        f"""SELECT {_PUBLIC} FROM payments WHERE {where} ORDER BY updated_at DESC, id DESC LIMIT $3""",  # noqa: S608
        *(after or (None, None)),
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]
