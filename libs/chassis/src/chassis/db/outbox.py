"""The outbox: messages that exist exactly if their transaction committed. `relay.py` sends them."""

from __future__ import annotations

from collections.abc import Sequence

from chassis.db.connection import Connection
from chassis.kafka.rows import Row


async def insert(connection: Connection, rows: Sequence[Row]) -> None:
    """Write rows in the caller's transaction, in one round trip."""
    topics, keys, values, headers = zip(*rows, strict=True)
    await connection.execute(
        """INSERT INTO outbox (topic, key, value, headers)
           SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[], $4::bytea[])""",
        topics,
        keys,
        values,
        headers,
    )
