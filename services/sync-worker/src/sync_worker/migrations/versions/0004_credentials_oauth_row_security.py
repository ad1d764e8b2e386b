"""Connections by mode and way to authenticate; credentials with states and leases; OAuth flows; row-level security.

What exists keeps working: each connection is a live one with the provider's first way to authenticate, the newest
version of each credential is the active one.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

from chassis.db.tenancy import protect

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATES = "'authorizing', 'matching', 'backfilling', 'live', 'limited', 'needs_reauth', 'paused', 'revoked', 'erased'"

_STATEMENTS = (
    f"""ALTER TABLE connections
        ADD COLUMN mode text NOT NULL DEFAULT 'live',
        ADD COLUMN method text NOT NULL DEFAULT '',
        ADD COLUMN reason text NOT NULL DEFAULT '',
        ADD COLUMN scopes jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN missing_scopes jsonb NOT NULL DEFAULT '[]',
        ADD COLUMN last_test jsonb,
        ADD COLUMN version integer NOT NULL DEFAULT 1,
        DROP CONSTRAINT ck_connections_state,
        ADD CONSTRAINT ck_connections_state CHECK (state IN ({_STATES})),
        ADD CONSTRAINT ck_connections_mode CHECK (mode IN ('live', 'sandbox'))""",
    "DROP INDEX uq_connections_live_account",
    """CREATE UNIQUE INDEX uq_connections_account ON connections (tenant, provider, account_ref, mode)
        WHERE state NOT IN ('revoked', 'erased') AND account_ref <> ''""",
    "ALTER TABLE credentials RENAME COLUMN name TO kind",
    """ALTER TABLE credentials
        ADD COLUMN tenant text,
        ADD COLUMN state text NOT NULL DEFAULT 'active',
        ADD COLUMN expires_at timestamptz,
        ADD COLUMN refresh_after timestamptz,
        ADD COLUMN lease_owner text NOT NULL DEFAULT '',
        ADD COLUMN lease_until timestamptz,
        ADD COLUMN failed_at timestamptz,
        ADD CONSTRAINT ck_credentials_state CHECK (state IN ('next', 'active', 'draining', 'revoked'))""",
    "UPDATE credentials SET tenant = c.tenant FROM connections c WHERE c.id = credentials.connection",
    "ALTER TABLE credentials ALTER COLUMN tenant SET NOT NULL",
    """UPDATE credentials SET state = 'revoked', sealed = '' WHERE EXISTS (
        SELECT FROM credentials newer WHERE newer.connection = credentials.connection AND newer.kind = credentials.kind
        AND newer.version > credentials.version)""",
    "CREATE UNIQUE INDEX uq_credentials_active ON credentials (connection, kind) WHERE state = 'active'",
    """CREATE INDEX ix_credentials_refresh_after ON credentials (refresh_after)
        WHERE state = 'active' AND refresh_after IS NOT NULL""",
    """CREATE TABLE oauth_flows (
        state_hash bytea NOT NULL, connection uuid NOT NULL, tenant text NOT NULL, verifier bytea NOT NULL,
        redirect_uri text NOT NULL, scopes jsonb NOT NULL, expires_at timestamptz NOT NULL, created_by text NOT NULL,
        CONSTRAINT pk_oauth_flows PRIMARY KEY (state_hash),
        CONSTRAINT fk_oauth_flows_connection FOREIGN KEY (connection) REFERENCES connections (id)
    )""",
    "CREATE INDEX ix_oauth_flows_connection ON oauth_flows (connection)",
    *protect("connections"),
    *protect("credentials"),
    *protect("oauth_flows"),
    *protect("payments"),
)


def upgrade() -> None:
    """Add the columns, fill them from what exists, and let nobody see another tenant's rows."""
    for statement in _STATEMENTS:
        op.execute(statement)
