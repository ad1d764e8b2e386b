"""Connections with credentials and endpoints, canonical payments, effects.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

from chassis.db import baseline

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STATEMENTS = (
    """CREATE TABLE connections (
        id uuid NOT NULL, tenant text NOT NULL, provider text NOT NULL, account_ref text NOT NULL, state text NOT NULL,
        options jsonb NOT NULL, created_at timestamptz NOT NULL, created_by text NOT NULL,
        CONSTRAINT pk_connections PRIMARY KEY (id),
        CONSTRAINT ck_connections_state CHECK (state IN ('live', 'revoked'))
    )""",
    """CREATE UNIQUE INDEX uq_connections_live_account ON connections (tenant, provider, account_ref)
        WHERE state = 'live'""",
    """CREATE TABLE credentials (
        connection uuid NOT NULL, name text NOT NULL, version bigint NOT NULL, sealed bytea NOT NULL,
        CONSTRAINT pk_credentials PRIMARY KEY (connection, name, version),
        CONSTRAINT fk_credentials_connection FOREIGN KEY (connection) REFERENCES connections (id)
    )""",
    """CREATE TABLE endpoints (
        id text NOT NULL, connection uuid NOT NULL, url text NOT NULL, lane text NOT NULL, version integer NOT NULL,
        CONSTRAINT pk_endpoints PRIMARY KEY (id),
        CONSTRAINT fk_endpoints_connection FOREIGN KEY (connection) REFERENCES connections (id)
    )""",
    "CREATE INDEX ix_endpoints_connection ON endpoints (connection)",
    """CREATE TABLE payments (
        id uuid NOT NULL, tenant text NOT NULL, provider text NOT NULL, connection uuid NOT NULL,
        external_id text NOT NULL, status text NOT NULL, amount bigint, amount_refunded bigint NOT NULL, currency text,
        contact bytea, fence bigint NOT NULL, version bigint NOT NULL, occurred_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT pk_payments PRIMARY KEY (id),
        CONSTRAINT uq_payments_tenant_provider_external_id UNIQUE (tenant, provider, external_id)
    ) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_payments_updated_at_id ON payments (updated_at, id)",
    """CREATE TABLE effects (
        key text NOT NULL, saga_id uuid NOT NULL, step text NOT NULL, tenant text NOT NULL, operation text NOT NULL,
        command jsonb NOT NULL, request_hash text NOT NULL, connection uuid, provider text NOT NULL,
        state text NOT NULL, code text NOT NULL, detail text NOT NULL, provider_ref text NOT NULL,
        result jsonb NOT NULL, attempt integer NOT NULL, answered integer NOT NULL, calls integer NOT NULL,
        trace text NOT NULL, lease_until timestamptz, sent_at timestamptz, updated_at timestamptz NOT NULL,
        CONSTRAINT pk_effects PRIMARY KEY (key),
        CONSTRAINT ck_effects_state
            CHECK (state IN ('reserved', 'sent', 'applied', 'refused', 'unknown', 'voided'))
    ) WITH (fillfactor = 80)""",
    "CREATE INDEX ix_effects_open ON effects (lease_until) WHERE attempt > answered",
    "CREATE INDEX ix_effects_saga_id ON effects (saga_id)",
)


def upgrade() -> None:
    """Create the shared tables and the service's own."""
    baseline.upgrade()
    for statement in _STATEMENTS:
        op.execute(statement)
