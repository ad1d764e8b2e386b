"""What was published about the versions of a provider's API.

Revision ID: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """CREATE TABLE api_version_records (
            provider text NOT NULL, record jsonb NOT NULL, at timestamptz NOT NULL,
            CONSTRAINT pk_api_version_records PRIMARY KEY (provider)
        )"""
    )
