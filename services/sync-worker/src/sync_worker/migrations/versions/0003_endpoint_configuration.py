"""Endpoints with settings, several keys and addresses; tenants as a tree.

What exists keeps working: each endpoint keeps its address as its only token and its secret as key k1, each tenant that
has a connection becomes a root. No record is published anew, because none changes.

Revision ID: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """ALTER TABLE endpoints
        ADD COLUMN state text NOT NULL DEFAULT 'live',
        ADD COLUMN settings jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN keys_issued integer NOT NULL DEFAULT 1,
        ADD COLUMN republish_at timestamptz,
        ADD COLUMN record_hash text NOT NULL DEFAULT '',
        ADD CONSTRAINT ck_endpoints_state CHECK (state IN ('live', 'paused'))""",
    "CREATE INDEX ix_endpoints_republish_at ON endpoints (republish_at) WHERE republish_at IS NOT NULL",
    """CREATE TABLE endpoint_secrets (
        endpoint text NOT NULL, key_id text NOT NULL, sealed bytea, not_before timestamptz, not_after timestamptz,
        created_at timestamptz NOT NULL, created_by text NOT NULL, last_used_at timestamptz, warned_at timestamptz,
        CONSTRAINT pk_endpoint_secrets PRIMARY KEY (endpoint, key_id),
        CONSTRAINT fk_endpoint_secrets_endpoint FOREIGN KEY (endpoint) REFERENCES endpoints (id) ON DELETE CASCADE
    ) WITH (fillfactor = 80)""",
    """CREATE TABLE endpoint_tokens (
        token text NOT NULL, endpoint text NOT NULL, url text NOT NULL, not_after timestamptz,
        created_at timestamptz NOT NULL, created_by text NOT NULL,
        CONSTRAINT pk_endpoint_tokens PRIMARY KEY (token),
        CONSTRAINT fk_endpoint_tokens_endpoint FOREIGN KEY (endpoint) REFERENCES endpoints (id) ON DELETE CASCADE
    )""",
    "CREATE INDEX ix_endpoint_tokens_endpoint ON endpoint_tokens (endpoint)",
    """CREATE TABLE tenants (
        slug text NOT NULL, parent text, name text NOT NULL, limits jsonb, version integer NOT NULL,
        CONSTRAINT pk_tenants PRIMARY KEY (slug),
        CONSTRAINT fk_tenants_parent FOREIGN KEY (parent) REFERENCES tenants (slug)
    )""",
    "CREATE INDEX ix_tenants_parent ON tenants (parent)",
    "INSERT INTO tenants (slug, name, version) SELECT DISTINCT tenant, tenant, 1 FROM connections",
    """INSERT INTO endpoint_secrets (endpoint, key_id, created_at, created_by)
        SELECT e.id, 'k1', c.created_at, c.created_by FROM endpoints e JOIN connections c ON c.id = e.connection""",
    """INSERT INTO endpoint_tokens (token, endpoint, url, created_at, created_by)
        SELECT e.id, e.id, e.url, c.created_at, c.created_by FROM endpoints e
        JOIN connections c ON c.id = e.connection""",
)


def upgrade() -> None:
    """Create the tables and fill them from what exists."""
    for statement in _STATEMENTS:
        op.execute(statement)
