"""Tables that every service with a database has, and the conventions its own tables follow.

The migrations of a service call `baseline.upgrade()` for these; this module must always describe the same tables.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, TIMESTAMP
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import registry

# Set before the first migration, or constraint names differ between machines (stack.md §6).
NAMING: Final = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
INSTANT: Final = TIMESTAMP(timezone=True)


class Xid8(sa.types.UserDefinedType[int]):
    """Postgres' 64-bit transaction id, which SQLAlchemy does not know."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the DDL name of the type."""
        return "xid8"


# Lets Alembic read the column back; it warns about types that it does not know.
ischema_names["xid8"] = Xid8


def service_registry() -> registry:
    """Return a registry for one service's SQLModel tables: `class Base(SQLModel, registry=service_registry())`.

    A registry of its own keeps two services' tables apart when a test imports both. The shared tables are in it.
    """
    tables = registry(metadata=sa.MetaData(naming_convention=NAMING))
    add_shared_tables(tables.metadata)
    return tables


def add_shared_tables(metadata: sa.MetaData) -> None:
    """Add inbox, outbox, parked keys and records, and idempotent answers to `metadata`."""
    now = sa.text("now()")
    sa.Table(
        "inbox",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("message_id", sa.Text, primary_key=True),
        sa.Column("at", INSTANT, nullable=False, server_default=now),
        sa.Column("fingerprint", sa.Text),
        sa.Index(None, "at", postgresql_using="brin"),
    )
    sa.Table(
        "outbox",
        metadata,
        sa.Column("xid", Xid8, primary_key=True, server_default=sa.text("pg_current_xact_id()")),
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("key", BYTEA),
        sa.Column("value", BYTEA),
        sa.Column("headers", BYTEA, nullable=False),
        sa.Column("at", INSTANT, nullable=False, server_default=now),
    )
    sa.Table(
        "parked_keys",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("key", BYTEA, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("head_offset", sa.BigInteger, nullable=False),
        sa.Column("since", INSTANT, nullable=False, server_default=now),
        sa.CheckConstraint("state IN ('waiting', 'draining')", name="state"),
    )
    sa.Table(
        "parked_records",
        metadata,
        sa.Column("consumer", sa.Text, primary_key=True),
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("key", BYTEA, primary_key=True),
        sa.Column("offset", sa.BigInteger, primary_key=True),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("value", BYTEA),
        sa.Column("headers", BYTEA, nullable=False),
        sa.Column("at", INSTANT, nullable=False, server_default=now),
    )
    sa.Table(
        "idempotent_answers",
        metadata,
        sa.Column("caller", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("request_hash", BYTEA, nullable=False),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("body", JSONB, nullable=False),
        sa.Column("at", INSTANT, nullable=False, server_default=now),
    )
