"""The inbox: which messages a consumer has already taken effect of, in the same transaction as the effect."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from chassis.db.connection import Connection
from chassis.db.database import Database

# Longer than any topic's retention and any provider's retry horizon (75 h), so that a replay finds its mark.
INBOX_RETENTION: Final = timedelta(days=30)
_SWEEP_ROWS: Final = 10_000


async def claim(connection: Connection, consumer: str, message_ids: Sequence[str]) -> set[str]:
    """Mark messages as handled and return those that were not yet; the others are duplicates.

    An id that occurs twice in `message_ids` is new once. The mark is undone with the transaction.
    """
    # One JSON document instead of an array: asyncpg examines each element of an array in Python.
    rows = await connection.fetch(
        """INSERT INTO inbox (consumer, message_id) SELECT $1, jsonb_array_elements_text($2::jsonb)
           ON CONFLICT DO NOTHING RETURNING message_id""",
        consumer,
        message_ids,
    )
    return {row[0] for row in rows}


async def sweep(database: Database) -> int:
    """Delete marks older than `INBOX_RETENTION`, in short transactions; returns how many."""
    total = 0
    while True:
        async with database.connection() as connection:
            deleted: int = await connection.fetchval(
                """WITH old AS (SELECT consumer, message_id FROM inbox WHERE at < now() - $1::interval LIMIT $2),
                        gone AS (DELETE FROM inbox USING old
                                 WHERE (inbox.consumer, inbox.message_id) = (old.consumer, old.message_id) RETURNING 1)
                   SELECT count(*) FROM gone""",
                INBOX_RETENTION,
                _SWEEP_ROWS,
            )
        total += deleted
        if deleted < _SWEEP_ROWS:
            return total
