"""The inbox: which messages a consumer has already taken effect of, in the same transaction as the effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from chassis.db.connection import Connection
from chassis.db.database import Database

# Longer than any topic's retention and any provider's retry horizon (75 h), so that a replay finds its mark.
INBOX_RETENTION: Final = timedelta(days=30)
_SWEEP_ROWS: Final = 10_000


async def claim(
    connection: Connection, consumer: str, message_ids: Sequence[str], fingerprints: Sequence[str | None] | None = None
) -> set[str]:
    """Mark messages as handled and return those that were not yet; the others came before.

    An id that occurs twice in `message_ids` is new once, and then the first of them is. The mark is undone with the
    transaction. `fingerprints`, one per id or None, say what came under an id: `known` tells them.
    """
    # One JSON document instead of an array: asyncpg examines each element of an array in Python.
    if fingerprints is not None:
        rows = await connection.fetch(
            """INSERT INTO inbox (consumer, message_id, fingerprint)
               SELECT $1, * FROM ROWS FROM (jsonb_array_elements_text($2::jsonb), jsonb_array_elements_text($3::jsonb))
               ON CONFLICT DO NOTHING RETURNING message_id""",
            *(consumer, message_ids, fingerprints),
        )
        return {row[0] for row in rows}
    rows = await connection.fetch(
        """INSERT INTO inbox (consumer, message_id) SELECT $1, jsonb_array_elements_text($2::jsonb)
           ON CONFLICT DO NOTHING RETURNING message_id""",
        consumer,
        message_ids,
    )
    return {row[0] for row in rows}


async def known(connection: Connection, consumer: str, message_ids: Sequence[str]) -> Mapping[str, str]:
    """Return the fingerprints that messages were marked with, by id; one without a fingerprint is left out."""
    rows = await connection.fetch(
        """SELECT message_id, fingerprint FROM inbox JOIN jsonb_array_elements_text($2::jsonb) AS asked (id)
             ON consumer = $1 AND message_id = asked.id
           WHERE fingerprint IS NOT NULL""",
        *(consumer, list(dict.fromkeys(message_ids))),
    )
    return {row["message_id"]: row["fingerprint"] for row in rows}


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
