"""How far consumer groups are behind on a topic, as the broker counts it: for whoever must slow the writers down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from contracts.errors import Transient
from contracts.topics import Topic

TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """One measurement of a group: records that wait, and offsets that are committed, over all partitions."""

    waiting: int
    committed: int


class BacklogMeter:
    """Measures groups on one topic; made by `backlog_meter`."""

    def __init__(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, topic: Topic) -> None:
        self._admin = admin
        self._consumer = consumer
        self._partitions = [TopicPartition(topic.name, index) for index in range(topic.partitions)]

    async def measure(self, groups: Sequence[str]) -> dict[str, Backlog]:
        """Return the backlog of each group; raises `Transient` (`broker_unavailable`) when it cannot be had."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                ends = await self._consumer.end_offsets(self._partitions)
                begins = await self._consumer.beginning_offsets(self._partitions)
                return {group: await self._backlog(group, begins, ends) for group in groups}
        except (KafkaError, OSError, TimeoutError) as error:
            raise Transient("broker_unavailable", type(error).__name__) from error

    async def _backlog(self, group: str, begins: dict[TopicPartition, int], ends: dict[TopicPartition, int]) -> Backlog:
        found = await self._admin.list_consumer_group_offsets(group, partitions=self._partitions)
        known = {partition: meta.offset for partition, meta in found.items() if meta.offset >= 0}
        # What retention has dropped waits for nobody, committed or not.
        committed = {one: max(known.get(one, begins[one]), begins[one]) for one in self._partitions}
        waiting = sum(max(0, ends[one] - committed[one]) for one in self._partitions)
        return Backlog(waiting, sum(committed.values()))


@asynccontextmanager
async def backlog_meter(bootstrap: str, topic: Topic) -> AsyncIterator[BacklogMeter]:
    """Give a meter while the block runs; raises `Transient` (`broker_unavailable`) when no broker answers."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await admin.start()
        await consumer.start()
    except (KafkaError, OSError) as error:
        await consumer.stop()
        await admin.close()
        raise Transient("broker_unavailable", type(error).__name__) from error
    try:
        yield BacklogMeter(admin, consumer, topic)
    finally:
        await consumer.stop()
        await admin.close()
