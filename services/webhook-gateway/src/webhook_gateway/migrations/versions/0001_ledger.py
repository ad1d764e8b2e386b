"""The ledger's table.

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
    """Create the shared tables and `deliveries`."""
    baseline.upgrade()
    op.execute(
        """CREATE TABLE deliveries (
            id uuid NOT NULL, item smallint NOT NULL, outcome text NOT NULL, reason text NOT NULL, status smallint,
            provider text NOT NULL, tenant text NOT NULL, endpoint text NOT NULL, connection uuid NOT NULL,
            lane text NOT NULL, event_id text NOT NULL, event_type text NOT NULL, entity text NOT NULL,
            method text NOT NULL, key_id text NOT NULL, received_at timestamptz NOT NULL, trace_id text NOT NULL,
            topic text NOT NULL, partition integer NOT NULL, "offset" bigint NOT NULL, headers jsonb NOT NULL,
            content_type text NOT NULL, encoding text NOT NULL, body bytea NOT NULL, body_sha256 text NOT NULL,
            CONSTRAINT pk_deliveries PRIMARY KEY (id, item),
            CONSTRAINT ck_deliveries_outcome CHECK (outcome IN ('accepted', 'duplicate', 'rejected'))
        )"""
    )
    op.execute("CREATE INDEX ix_deliveries_received_at_id_item ON deliveries (received_at, id, item)")
    op.execute(
        "CREATE INDEX ix_deliveries_provider_received_at_id_item ON deliveries (provider, received_at, id, item)"
    )
    op.execute("CREATE INDEX ix_deliveries_entity ON deliveries (entity, received_at) WHERE entity <> ''")
    op.execute("CREATE INDEX ix_deliveries_event ON deliveries (endpoint, event_id) WHERE event_id <> ''")
