"""Routes, decisions, overrides, calls and quotas by mode; what is there is live.

Revision ID: 0005
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEYS: Final = {
    "routes": "provider, capability, mode",
    "route_transitions": "provider, capability, mode, epoch_generation, epoch_counter",
    "route_overrides": "provider, capability, mode",
    "call_minutes": "provider, capability, mode, minute",
    "quotas": "provider, bucket, mode",
}


def upgrade() -> None:
    """Add the mode to the tables and to their keys; writers name it from now on, so there is no default."""
    for table, key in _KEYS.items():
        op.execute(
            f"""ALTER TABLE {table} ADD COLUMN mode text NOT NULL DEFAULT 'live',
                ADD CONSTRAINT ck_{table}_mode CHECK (mode IN ('live', 'sandbox')),
                DROP CONSTRAINT pk_{table}, ADD CONSTRAINT pk_{table} PRIMARY KEY ({key})"""
        )
        op.execute(f"ALTER TABLE {table} ALTER COLUMN mode DROP DEFAULT")
