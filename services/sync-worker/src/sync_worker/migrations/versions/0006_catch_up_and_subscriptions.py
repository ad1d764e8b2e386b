"""Cursors of feeds that are read for missed events, and webhooks that are registered by API; row-level security.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

from chassis.db.tenancy import protect

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """CREATE TABLE cursors (
        connection uuid NOT NULL, stream text NOT NULL, tenant text NOT NULL, done tstzmultirange NOT NULL DEFAULT '{}',
        window_from timestamptz, window_until timestamptz, page_cursor text NOT NULL DEFAULT '',
        page_expires_at timestamptz, enabled_at timestamptz, gen bigint NOT NULL DEFAULT 0,
        lease_owner text NOT NULL DEFAULT '', lease_until timestamptz, due_at timestamptz NOT NULL, calls_day date,
        calls integer NOT NULL DEFAULT 0, found bigint NOT NULL DEFAULT 0, missed bigint NOT NULL DEFAULT 0,
        last_run_at timestamptz, error text NOT NULL DEFAULT '',
        CONSTRAINT pk_cursors PRIMARY KEY (connection, stream),
        CONSTRAINT fk_cursors_connection FOREIGN KEY (connection) REFERENCES connections (id)
    )""",
    "CREATE INDEX ix_cursors_due_at ON cursors (due_at)",
    """CREATE TABLE subscriptions (
        connection uuid NOT NULL, stream text NOT NULL, tenant text NOT NULL, endpoint text NOT NULL,
        parameters jsonb NOT NULL DEFAULT '{}', state text NOT NULL DEFAULT 'wanted', ext_id text NOT NULL DEFAULT '',
        url text NOT NULL DEFAULT '', more jsonb NOT NULL DEFAULT '{}', expires_at timestamptz,
        due_at timestamptz NOT NULL, checked_at timestamptz, drift text NOT NULL DEFAULT '',
        error text NOT NULL DEFAULT '', gen bigint NOT NULL DEFAULT 0, lease_owner text NOT NULL DEFAULT '',
        lease_until timestamptz, created_at timestamptz NOT NULL, created_by text NOT NULL,
        CONSTRAINT pk_subscriptions PRIMARY KEY (connection, stream),
        CONSTRAINT fk_subscriptions_connection FOREIGN KEY (connection) REFERENCES connections (id),
        CONSTRAINT ck_subscriptions_state CHECK (state IN ('wanted', 'active', 'ending'))
    )""",
    "CREATE INDEX ix_subscriptions_due_at ON subscriptions (due_at)",
    *protect("cursors"),
    *protect("subscriptions"),
)


def upgrade() -> None:
    """Add the two tables, each tenant's rows hidden from the others."""
    for statement in _STATEMENTS:
        op.execute(statement)
