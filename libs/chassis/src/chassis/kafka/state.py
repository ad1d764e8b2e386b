"""A compacted topic held in memory: read to its end before the service is ready, then followed.

Every process reads all partitions (no consumer group). Must never be asked for anything before `start` returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from chassis.clock import Clock, SystemClock
from chassis.kafka.broker import FETCH_MAX_WAIT_MS
from chassis.telemetry.logs import logger
from contracts.envelope import Envelope, from_record
from contracts.errors import Invalid
from contracts.topics import Topic

log = logger(__name__)

_POLL_MS: Final = 1000
_RECONNECT_S: Final = 1.0

# Called with the record key and its envelope, or None for a tombstone. It must not raise for a record it dislikes.
Apply = Callable[[str, Envelope | None], None]


class StateReader:
    """Feeds every record of a compacted topic, in order per key, to `apply`."""

    def __init__(self, bootstrap: str, topic: Topic, apply: Apply, clock: Clock | None = None) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._apply = apply
        self._clock = clock or SystemClock()
        self._consumer: AIOKafkaConsumer | None = None
        self.loaded = asyncio.Event()

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._topic.name

    async def run(self) -> None:
        """Follow the topic until cancelled; reconnects, keeping the last state, when the broker is away."""
        while True:
            try:
                await self._follow()
            except KafkaError as error:
                log.warning("state_reader_lost_broker", topic=self.topic, error=type(error).__name__)
                await self._clock.sleep(_RECONNECT_S)

    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
        )
        try:
            await consumer.start()
            partitions = [TopicPartition(self.topic, index) for index in range(self._topic.partitions)]
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            ends = {p: end for p, end in (await consumer.end_offsets(partitions)).items() if end}
            while True:
                if not self.loaded.is_set() and await _reached(consumer, ends):
                    self.loaded.set()
                for records in (await consumer.getmany(timeout_ms=FETCH_MAX_WAIT_MS if ends else _POLL_MS)).values():
                    for record in records:
                        self._take(record.key, record.value, record.headers)
        finally:
            await consumer.stop()

    def _take(self, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
        text = (key or b"").decode(errors="replace")
        try:
            self._apply(text, None if value is None else from_record(value, headers))
        except Invalid as error:
            log.warning("state_record_invalid", topic=self.topic, key=text, code=error.code)


async def _reached(consumer: AIOKafkaConsumer, ends: dict[TopicPartition, int]) -> bool:
    for partition in list(ends):
        if await consumer.position(partition) >= ends[partition]:
            del ends[partition]
    return not ends
