"""How far a group is behind, on a real broker."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from chassis.kafka.backlog import Backlog, backlog_meter
from chassis.kafka.producer import Publisher
from chassis.testing.harness import event, make_topic
from chassis.testing.ports import free_port
from contracts.errors import Transient

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def test_a_group_waits_for_what_it_has_not_committed(kafka_bootstrap: str) -> None:
    topic = await make_topic(kafka_bootstrap, "backlog", partitions=3)
    publisher = Publisher(kafka_bootstrap)
    await publisher.start()
    places = [await publisher.publish(topic, f"key-{n}", event(f"e{n}", b"{}"), timeout_s=30) for n in range(30)]
    await publisher.stop()
    done = {TopicPartition(topic.name, 0): sum(partition == 0 for partition, _ in places)}
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka_bootstrap, group_id=topic.name, enable_auto_commit=False)
    await consumer.start()
    consumer.assign(list(done))
    await consumer.commit(done)
    await consumer.stop()
    async with backlog_meter(kafka_bootstrap, topic) as meter:
        found = await meter.measure([topic.name, f"{topic.name}-nobody"])
    (first,) = done.values()
    assert found == {topic.name: Backlog(30 - first, first), f"{topic.name}-nobody": Backlog(30, 0)}


async def test_without_a_broker_it_is_a_passing_fault(kafka_bootstrap: str) -> None:
    topic = await make_topic(kafka_bootstrap, "backlog", partitions=1)
    with pytest.raises(Transient):
        async with backlog_meter(f"127.0.0.1:{free_port()}", topic):
            raise AssertionError("there is no broker")
