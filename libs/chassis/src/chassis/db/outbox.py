"""The outbox: messages that exist exactly if their transaction committed. `relay.py` sends them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from chassis.db.connection import Connection
from contracts.envelope import Headers


class Row(NamedTuple):
    """One outgoing message; `headers` are packed, `value` None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: bytes


def pack_headers(headers: Headers) -> bytes:
    """Return record headers as MessagePack: names and raw bytes, which need not be UTF-8 for a foreign record."""
    return msgspec.msgpack.encode(headers)


_unpack = msgspec.msgpack.Decoder(list[tuple[str, bytes]])


def unpack_headers(packed: bytes) -> Headers:
    """Return the headers that `pack_headers` packed."""
    return _unpack.decode(packed)


def row(topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> Row:
    """Return an outbox row."""
    return Row(topic, key, value, pack_headers(headers))


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
