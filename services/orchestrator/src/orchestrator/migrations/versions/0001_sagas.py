"""Sagas, their timelines and timers.

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
    """CREATE TABLE sagas (
        id uuid NOT NULL, tenant text NOT NULL, definition text NOT NULL, version integer NOT NULL,
        business_key text NOT NULL, status text NOT NULL, given jsonb NOT NULL, state jsonb NOT NULL,
        trace text NOT NULL, started_by text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
        CONSTRAINT pk_sagas PRIMARY KEY (id),
        CONSTRAINT uq_sagas_tenant_definition_business_key UNIQUE (tenant, definition, business_key)
    ) WITH (fillfactor = 70)""",
    """CREATE TABLE saga_events (
        saga_id uuid NOT NULL, seq integer NOT NULL, at timestamptz NOT NULL, entry text NOT NULL, step text NOT NULL,
        detail jsonb NOT NULL,
        CONSTRAINT pk_saga_events PRIMARY KEY (saga_id, seq),
        CONSTRAINT fk_saga_events_saga_id FOREIGN KEY (saga_id) REFERENCES sagas (id)
    )""",
    """CREATE TABLE timers (
        saga_id uuid NOT NULL, step text NOT NULL, attempt integer NOT NULL, due_at timestamptz NOT NULL,
        CONSTRAINT pk_timers PRIMARY KEY (saga_id, step),
        CONSTRAINT fk_timers_saga_id FOREIGN KEY (saga_id) REFERENCES sagas (id)
    )""",
    "CREATE INDEX ix_timers_due_at ON timers (due_at)",
)


def upgrade() -> None:
    """Create the shared tables and the service's own."""
    baseline.upgrade()
    for statement in _STATEMENTS:
        op.execute(statement)
