"""Read a topic from the side: no consumer group, no commits; for people, the CLI and the demo.

Must never be part of a service: what it read is forgotten, so nothing may depend on it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from chassis.kafka.broker import FETCH_MAX_WAIT_MS
from chassis.kafka.records import ConsumerRecord
from contracts.errors import Invalid, Transient
from contracts.topics import physical_topics

_POLL_MS: Final = 500


async def tail(
    bootstrap: str, topic: str, start: Literal["end", "beginning"] | datetime = "end"
) -> AsyncIterator[ConsumerRecord]:
    """Yield the records of a declared topic, retry and dead-letter topics included, and follow it for ever.

    Order holds within a partition. A time as `start` begins with the records that were written at it or later. Raises
    `Invalid` (`unknown_topic`), and `Transient` (`broker_unavailable`) when the broker is away. Close the generator to
    disconnect.
    """
    known = {one.name: one.partitions for one in physical_topics()}
    if topic not in known:
        raise Invalid("unknown_topic", f"there is no topic {topic[:100]}", field="topic")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=FETCH_MAX_WAIT_MS
    )
    try:
        await consumer.start()
        partitions = [TopicPartition(topic, index) for index in range(known[topic])]
        consumer.assign(partitions)
        await _seek(consumer, partitions, start)
        while True:
            for records in (await consumer.getmany(timeout_ms=_POLL_MS)).values():
                for record in records:
                    yield record
    except KafkaError as error:
        raise Transient("broker_unavailable", f"{bootstrap}: {type(error).__name__}") from error
    finally:
        await consumer.stop()


async def _seek(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition], start: Literal["end", "beginning"] | datetime
) -> None:
    if start == "beginning":
        await consumer.seek_to_beginning(*partitions)
        return
    await consumer.seek_to_end(*partitions)
    if isinstance(start, datetime):
        since_ms = int(start.timestamp() * 1000)
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        for partition, place in found.items():
            # None means that nothing was written since: the end is the place to wait at.
            if place is not None:
                consumer.seek(partition, place.offset)
