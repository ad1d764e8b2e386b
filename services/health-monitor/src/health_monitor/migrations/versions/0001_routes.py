"""Routes, the decisions about them, and call statistics.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

from chassis.db import baseline

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the shared tables, `routes`, `route_transitions` and `call_minutes`."""
    baseline.upgrade()
    op.execute(
        """CREATE TABLE routes (
            provider text NOT NULL, capability text NOT NULL, state text NOT NULL, share smallint NOT NULL,
            reason text NOT NULL, decided_at timestamptz NOT NULL, epoch_generation bigint NOT NULL,
            epoch_counter bigint NOT NULL, recent boolean[] NOT NULL, fails smallint NOT NULL, goods smallint NOT NULL,
            CONSTRAINT pk_routes PRIMARY KEY (provider, capability),
            CONSTRAINT ck_routes_state CHECK (state IN ('unknown', 'healthy', 'degraded', 'down', 'recovering'))
        )"""
    )
    op.execute(
        """CREATE TABLE route_transitions (
            provider text NOT NULL, capability text NOT NULL, epoch_generation bigint NOT NULL,
            epoch_counter bigint NOT NULL, before text NOT NULL, after text NOT NULL, share smallint NOT NULL,
            reason text NOT NULL, decided_at timestamptz NOT NULL,
            CONSTRAINT pk_route_transitions PRIMARY KEY (provider, capability, epoch_generation, epoch_counter)
        )"""
    )
    op.execute(
        """CREATE TABLE call_minutes (
            provider text NOT NULL, capability text NOT NULL, minute timestamptz NOT NULL, success bigint NOT NULL,
            client_error bigint NOT NULL, server_error bigint NOT NULL, timeout bigint NOT NULL,
            connect_error bigint NOT NULL, throttled bigint NOT NULL, latency_ms_sum double precision NOT NULL,
            latency_ms_max double precision NOT NULL,
            CONSTRAINT pk_call_minutes PRIMARY KEY (provider, capability, minute)
        )"""
    )
    op.execute("CREATE INDEX ix_call_minutes_minute ON call_minutes (minute)")
