"""A message as bytes on its way to Kafka: what the outbox stores and the producer sends."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

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
