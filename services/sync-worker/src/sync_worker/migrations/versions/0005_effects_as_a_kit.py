"""Effects by the participant kit: lanes, directions, sealed arguments, versions, origins; row-level security.

What exists keeps its state; an effect that was asked for before goes on in the standard lane.

Revision ID: 0005
"""

from __future__ import annotations

from alembic import op

from chassis.db.tenancy import protect

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """ALTER TABLE effects
        ADD COLUMN direction text NOT NULL DEFAULT 'do',
        ADD COLUMN lane text NOT NULL DEFAULT 'standard',
        ADD COLUMN personal bytea,
        ADD COLUMN deadline timestamptz,
        ADD COLUMN version bigint NOT NULL DEFAULT 0,
        ADD COLUMN origin text NOT NULL DEFAULT 'saga',
        ADD COLUMN parked_until timestamptz""",
    "UPDATE effects SET deadline = (command ->> 'deadline')::timestamptz WHERE command ->> 'deadline' IS NOT NULL",
    "UPDATE effects SET command = command - 'deadline'",
    "CREATE INDEX ix_effects_state_updated_at ON effects (state, updated_at, key)",
    *protect("effects"),
)


def upgrade() -> None:
    """Add the columns and fill them from what exists."""
    for statement in _STATEMENTS:
        op.execute(statement)
