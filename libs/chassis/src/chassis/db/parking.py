"""Parked keys: while a record of a key waits for its retry, the key's later records wait behind it, in the database.

A key is `waiting` for the retry of one record (the head), or `draining`: its parked records were released to the retry
topic and the head is the last of them. Order is the order of offsets in the source topic, where a key has one
partition. The row lock on `parked_keys` keeps the member that owns the source partition and the one that owns the
retry partition from passing each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chassis.db.connection import Connection

Key = tuple[str, bytes]  # (source topic, record key)


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """State of one parked key."""

    state: Literal["waiting", "draining"]
    head_offset: int


@dataclass(frozen=True, slots=True)
class ParkedRecord:
    """A record in waiting; `headers` are packed as in the outbox."""

    topic: str
    key: bytes
    partition: int
    offset: int
    value: bytes | None
    headers: bytes


async def lock_parked(connection: Connection, consumer: str, keys: Iterable[Key]) -> dict[Key, ParkedKey]:
    """Return which of `keys` are parked, locking their rows until the transaction ends.

    Rows are locked in key order, so that two members cannot deadlock.
    """
    # Nearly always nothing is parked, and asking that first spares sending every key of every batch. Only the owner of
    # a source partition parks a free key, so the answer cannot go stale under the owner that asks.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM parked_keys WHERE consumer = $1)", consumer):
        return {}
    pairs = sorted(set(keys))
    rows = await connection.fetch(
        """SELECT topic, key, state, head_offset FROM parked_keys
           WHERE consumer = $1 AND (topic, key) IN (SELECT * FROM unnest($2::text[], $3::bytea[]))
           ORDER BY topic, key FOR UPDATE""",
        consumer,
        [topic for topic, _ in pairs],
        [key for _, key in pairs],
    )
    return {(row["topic"], row["key"]): ParkedKey(row["state"], row["head_offset"]) for row in rows}


async def park_key(connection: Connection, consumer: str, key: Key, head_offset: int) -> None:
    """Make `key` wait for the retry of the record at `head_offset`."""
    await connection.execute(
        """INSERT INTO parked_keys (consumer, topic, key, state, head_offset) VALUES ($1, $2, $3, 'waiting', $4)
           ON CONFLICT (consumer, topic, key) DO UPDATE SET state = 'waiting', head_offset = excluded.head_offset""",
        consumer,
        *key,
        head_offset,
    )


async def park_records(connection: Connection, consumer: str, records: Sequence[ParkedRecord]) -> None:
    """Store records behind their key's head; a redelivered one is stored once."""
    if not records:
        return
    await connection.execute(
        """INSERT INTO parked_records (consumer, topic, key, "offset", partition, value, headers)
           SELECT $1, * FROM unnest($2::text[], $3::bytea[], $4::bigint[], $5::int[], $6::bytea[], $7::bytea[])
           ON CONFLICT DO NOTHING""",
        consumer,
        [record.topic for record in records],
        [record.key for record in records],
        [record.offset for record in records],
        [record.partition for record in records],
        [record.value for record in records],
        [record.headers for record in records],
    )


async def release(connection: Connection, consumer: str, key: Key) -> list[ParkedRecord]:
    """Take all parked records of a key whose head is done, in order; frees the key when there are none.

    The caller must hold the lock of `lock_parked` and send the records to the retry topic in the same transaction.
    """
    rows = await connection.fetch(
        """DELETE FROM parked_records WHERE consumer = $1 AND topic = $2 AND key = $3
           RETURNING topic, key, partition, "offset", value, headers""",
        consumer,
        *key,
    )
    records = sorted((ParkedRecord(**dict(row)) for row in rows), key=lambda record: record.offset)
    if records:
        await connection.execute(
            """UPDATE parked_keys SET state = 'draining', head_offset = $4
               WHERE consumer = $1 AND topic = $2 AND key = $3""",
            consumer,
            *key,
            records[-1].offset,
        )
    else:
        await connection.execute(
            "DELETE FROM parked_keys WHERE consumer = $1 AND topic = $2 AND key = $3", consumer, *key
        )
    return records
