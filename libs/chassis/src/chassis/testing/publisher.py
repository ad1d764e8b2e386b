"""A publisher without a broker: it remembers what it was given, and may refuse or stall."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from contracts.envelope import Envelope, Headers, from_record
from contracts.errors import Transient
from contracts.events.gateway import DeliveryAttributes
from contracts.topics import Topic


@dataclass(frozen=True)
class Record:
    """What would be on the broker."""

    topic: str
    key: str
    envelope: Envelope

    @property
    def attributes(self) -> DeliveryAttributes:
        """What a delivery's record says of it."""
        return DeliveryAttributes.of(self.envelope)

    @property
    def payload(self) -> bytes:
        """The event's own bytes; for a body that did not go by reference."""
        return self.attributes.payload(self.envelope.data)


class RecordingPublisher:
    """The port of the publisher: writes wait for `gate`, and from number `fail_from` on the broker takes none."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.writes = 0
        self.fail_from: int | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> tuple[int, int]:
        """Remember a record; raises `Transient` as a broker that is away does."""
        self.writes += 1
        await self.gate.wait()
        if self.fail_from is not None and self.writes > self.fail_from:
            raise Transient("broker_unavailable", "KafkaConnectionError")
        self.records.append(Record(topic, (key or b"").decode(), from_record(value, headers)))
        return 0, len(self.records)

    async def publish(self, topic: Topic, key: str, envelope: Envelope, *, timeout_s: float = 5.0) -> tuple[int, int]:
        """Remember an envelope; see `write`."""
        async with asyncio.timeout(timeout_s):
            return await self.write(topic.name, key.encode(), envelope.data, envelope.headers())
