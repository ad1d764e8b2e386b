"""Order and shares of routes, evidence of decisions, what operators want, API versions, quotas.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """ALTER TABLE routes DROP COLUMN recent, DROP COLUMN fails, DROP COLUMN goods,
        ADD COLUMN provider_order text[] NOT NULL DEFAULT '{}', ADD COLUMN shares jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN probe text NOT NULL DEFAULT 'idle', ADD COLUMN idempotent_only boolean NOT NULL DEFAULT false,
        ADD COLUMN ratio double precision NOT NULL DEFAULT 0, ADD COLUMN numbers jsonb NOT NULL DEFAULT '{}',
        DROP CONSTRAINT ck_routes_state,
        ADD CONSTRAINT ck_routes_state CHECK (state IN ('unknown', 'healthy', 'suspect', 'degraded', 'down',
            'recovering', 'maintenance', 'forced_up', 'forced_down'))""",
    """ALTER TABLE routes ALTER COLUMN provider_order DROP DEFAULT, ALTER COLUMN shares DROP DEFAULT,
        ALTER COLUMN probe DROP DEFAULT, ALTER COLUMN idempotent_only DROP DEFAULT, ALTER COLUMN ratio DROP DEFAULT,
        ALTER COLUMN numbers DROP DEFAULT""",
    """ALTER TABLE route_transitions ADD COLUMN kind text NOT NULL DEFAULT '',
        ADD COLUMN evidence jsonb NOT NULL DEFAULT '{}', ADD COLUMN shares jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN actor text NOT NULL DEFAULT ''""",
    """ALTER TABLE route_transitions ALTER COLUMN kind DROP DEFAULT, ALTER COLUMN evidence DROP DEFAULT,
        ALTER COLUMN shares DROP DEFAULT, ALTER COLUMN actor DROP DEFAULT""",
    "CREATE INDEX ix_route_transitions_capability_decided_at ON route_transitions (capability, decided_at)",
    """CREATE TABLE owners (name text NOT NULL, generation bigint NOT NULL, CONSTRAINT pk_owners PRIMARY KEY (name))""",
    # Greater than every epoch that was given out before there were owners.
    """INSERT INTO owners (name, generation) SELECT 'routes', coalesce(max(epoch_generation), 0) FROM routes""",
    """CREATE TABLE route_overrides (
        provider text NOT NULL, capability text NOT NULL, state text NOT NULL, until timestamptz NOT NULL,
        reason text NOT NULL, actor text NOT NULL, at timestamptz NOT NULL,
        CONSTRAINT pk_route_overrides PRIMARY KEY (provider, capability),
        CONSTRAINT ck_route_overrides_state CHECK (state IN ('maintenance', 'forced_up', 'forced_down'))
    )""",
    """CREATE TABLE capability_plans (
        capability text NOT NULL, providers text[] NOT NULL, shares jsonb NOT NULL, actor text NOT NULL,
        at timestamptz NOT NULL, CONSTRAINT pk_capability_plans PRIMARY KEY (capability)
    )""",
    """CREATE TABLE clearances (
        name text NOT NULL, at timestamptz NOT NULL, actor text NOT NULL, CONSTRAINT pk_clearances PRIMARY KEY (name)
    )""",
    """CREATE TABLE api_versions (
        provider text NOT NULL, version text NOT NULL, deprecation text NOT NULL, sunset text NOT NULL,
        first_seen timestamptz NOT NULL, last_seen timestamptz NOT NULL,
        CONSTRAINT pk_api_versions PRIMARY KEY (provider, version)
    )""",
    """CREATE TABLE quotas (
        provider text NOT NULL, bucket text NOT NULL, version bigint NOT NULL, policy jsonb NOT NULL, configured jsonb,
        used_ratio double precision NOT NULL, told text NOT NULL, at timestamptz NOT NULL,
        CONSTRAINT pk_quotas PRIMARY KEY (provider, bucket)
    )""",
)


def upgrade() -> None:
    """Change the routes' tables and create the new ones."""
    for statement in _STATEMENTS:
        op.execute(statement)
