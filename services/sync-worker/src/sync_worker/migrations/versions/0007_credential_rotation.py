"""Rotation of credentials with overlap, and the version of the key that each is wrapped by.

`key_version` is read from the sealed value itself (its first four bytes), so that the two cannot differ.

Revision ID: 0007
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """ALTER TABLE credentials
        ADD COLUMN due_at timestamptz,
        ADD COLUMN requested_by text NOT NULL DEFAULT '',
        ADD COLUMN old_check text NOT NULL DEFAULT '',
        ADD COLUMN key_version integer GENERATED ALWAYS AS (
            CASE WHEN octet_length(sealed) < 4 THEN 0
            ELSE (get_byte(sealed, 0) << 24) | (get_byte(sealed, 1) << 16) | (get_byte(sealed, 2) << 8)
                 | get_byte(sealed, 3) END) STORED""",
    "CREATE INDEX ix_credentials_due_at ON credentials (due_at) WHERE due_at IS NOT NULL",
    "CREATE INDEX ix_credentials_key_version ON credentials (key_version) WHERE sealed <> ''",
)


def upgrade() -> None:
    """Add the columns; existing rows get their key's version from what they hold."""
    for statement in _STATEMENTS:
        op.execute(statement)
