"""Whose forecast is the worst one of a quota.

Revision ID: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the owner, nobody so far; writers name it from now on, so there is no default."""
    op.execute("ALTER TABLE quotas ADD COLUMN worst_owner text NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE quotas ALTER COLUMN worst_owner DROP DEFAULT")
