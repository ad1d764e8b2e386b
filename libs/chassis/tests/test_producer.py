"""A producer whose client is beyond help is replaced, also while no broker answers; on a real broker."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, OutOfOrderSequenceNumber

from chassis.kafka import producer as module
from chassis.kafka.producer import Publisher
from chassis.testing.harness import event, make_topic, until
from chassis.testing.ports import free_port
from contracts.errors import Transient

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def test_a_wedged_client_is_replaced_once_a_broker_answers(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = await make_topic(kafka_bootstrap, "wedged", partitions=1)
    publisher = Publisher(kafka_bootstrap)
    await publisher.start()
    refusals = 2
    connect = AIOKafkaProducer.start

    async def wedged(*_: Any, **__: Any) -> None:
        raise OutOfOrderSequenceNumber

    async def refused_at_first(self: AIOKafkaProducer) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise KafkaConnectionError
        await connect(self)

    with monkeypatch.context() as patched:
        patched.setattr(AIOKafkaProducer, "send", wedged)
        patched.setattr(AIOKafkaProducer, "start", refused_at_first)
        patched.setattr(module, "_REBUILD_RETRY_S", 0.01)
        with pytest.raises(Transient):
            await publisher.publish(topic, "key", event("e1", b"{}"))
        with pytest.raises(Transient, match="not connected"):
            await publisher.publish(topic, "key", event("e1", b"{}"))

        async def tried_in_vain() -> bool:
            return refusals == 0

        await until(tried_in_vain, "two attempts to connect again")

    async def written() -> bool:
        try:
            return (await publisher.publish(topic, "key", event("e1", b"{}"))) == (0, 0)
        except Transient:
            return False

    await until(written, "a record by the new client")
    await publisher.stop()


async def test_a_start_without_a_broker_can_be_tried_again(kafka_bootstrap: str) -> None:
    topic = await make_topic(kafka_bootstrap, "again", partitions=1)
    publisher = Publisher(f"127.0.0.1:{free_port()}")
    with pytest.raises(KafkaConnectionError):
        await publisher.start()
    with pytest.raises(Transient):
        await publisher.publish(topic, "key", event("e1", b"{}"))
    publisher._options["bootstrap_servers"] = kafka_bootstrap
    await publisher.start()
    assert await publisher.publish(topic, "key", event("e1", b"{}")) == (0, 0)
    await publisher.stop()
