"""What came under an id is remembered beside its inbox mark, so that a conflict is told from a repeat.

Revision ID: 0003
"""

from __future__ import annotations

from chassis.db import baseline

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; marks that are there have no fingerprint."""
    baseline.add_fingerprints()
