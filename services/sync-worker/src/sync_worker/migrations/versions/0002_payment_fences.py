"""The fence of each part of a payment that not every snapshot knows.

Revision ID: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the fences; what is known already came from a snapshot that is at most as new as the payment."""
    op.execute(
        """ALTER TABLE payments ADD COLUMN amount_fence bigint, ADD COLUMN refunded_fence bigint,
                                ADD COLUMN contact_fence bigint"""
    )
    op.execute("UPDATE payments SET amount_fence = fence WHERE amount IS NOT NULL")
    op.execute("UPDATE payments SET refunded_fence = fence WHERE amount_refunded > 0")
    op.execute("UPDATE payments SET contact_fence = fence WHERE contact IS NOT NULL")
