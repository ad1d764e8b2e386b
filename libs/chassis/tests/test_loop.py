"""The guarantees of the batch loop on a real broker and a real database, one process."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest

from chassis.db.database import UnitOfWork
from chassis.kafka.failures import RetryPolicy
from chassis.kafka.loop import BatchLoop, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.records import Message
from chassis.testing.harness import consuming, event, make_database, make_topic, read_topic, rows, until
from chassis.testing.postgres import PostgresAdmin
from contracts.errors import Invalid, Transient
from contracts.topics import Topic

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

EFFECTS = "CREATE TABLE effects (seq bigserial, key text NOT NULL, n int NOT NULL)"
QUICK = RetryPolicy(delays_s={"10s": 0.2, "1m": 0.3, "10m": 0.4, "1h": 0.5}, unexpected_attempts=2)


async def record_effect(uow: UnitOfWork, messages: Sequence[Message]) -> None:
    for message in messages:
        n = json.loads(message.envelope.data)["n"]
        await uow.connection.execute("INSERT INTO effects (key, n) VALUES ($1, $2)", message.text_key, n)


async def send(publisher: Publisher, topic: Topic, key: str, n: int, identifier: str | None = None) -> None:
    await publisher.publish(topic, key, event(identifier or f"{key}-{n}", json.dumps({"n": n}).encode()), timeout_s=30)


async def effects(dsn: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row in await rows(dsn, "SELECT key, n FROM effects ORDER BY seq"):
        found[row["key"]].append(row["n"])
    return dict(found)


async def test_each_message_takes_effect_once_and_in_order(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "once")
    dsn = await make_database(postgres_server, EFFECTS)
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions(retry=QUICK)) as (_, publisher):
        for n in range(20):
            for key in ("a", "b", "c"):
                await send(publisher, topic, key, n)
                if n % 5 == 0:
                    await send(publisher, topic, key, n)
        await until(lambda: _count(dsn, 60), "60 effects")
        assert await effects(dsn) == {key: list(range(20)) for key in ("a", "b", "c")}


async def test_an_undecodable_record_is_dead_lettered_and_its_neighbours_go_on(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "poison", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions(retry=QUICK)) as (_, publisher):
        await send(publisher, topic, "a", 1)
        await publisher.send(topic.name, b"a", b"no envelope", [("ce_id", b"\xff"), ("x", b"\xff")], timeout_s=5)
        await send(publisher, topic, "a", 2)
        await until(lambda: _count(dsn, 2), "both neighbours")
        dead = await until(lambda: read_topic(kafka_bootstrap, topic.dlq), "a dead letter")
    assert [(letter.key, letter.value) for letter in dead] == [(b"a", b"no envelope")]
    assert dead[0].header("x-error-code") == "envelope_missing_attribute"
    assert (dead[0].header("x-topic"), dead[0].header("x-offset")) == (topic.name, "1")


async def test_one_failing_message_of_a_batch_does_not_take_its_neighbours_along(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "invalid", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)

    async def refuse_odd_key(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        if any(message.text_key == "bad" for message in messages):
            raise Invalid("no_good", "the test says so")
        await record_effect(uow, messages)

    publisher = Publisher(kafka_bootstrap)
    await publisher.start()
    for n in range(50):
        await send(publisher, topic, "bad" if n == 23 else "good", n)
    await publisher.stop()
    async with consuming(kafka_bootstrap, dsn, topic, refuse_odd_key, LoopOptions(retry=QUICK)):
        await until(lambda: _count(dsn, 49), "49 neighbours")
        dead = await until(lambda: read_topic(kafka_bootstrap, topic.dlq), "a dead letter")
    assert [letter.header("x-error-code") for letter in dead] == ["no_good"]
    assert (await effects(dsn))["good"] == [n for n in range(50) if n != 23]


async def test_a_key_with_a_waiting_retry_is_parked_and_keeps_its_order(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "parked", partitions=2)
    dsn = await make_database(postgres_server, EFFECTS)
    closed = True

    async def wait_for_open(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        if closed and any(message.text_key == "waiting" for message in messages):
            raise Transient("closed", "the test says so")
        await record_effect(uow, messages)

    async with consuming(kafka_bootstrap, dsn, topic, wait_for_open, LoopOptions(retry=QUICK)) as (_, publisher):
        for n in range(10):
            await send(publisher, topic, "waiting", n)
            await send(publisher, topic, "free", n)
        await until(lambda: _count(dsn, 10), "the free key")
        await until(lambda: _parked(dsn, 9), "nine followers parked")
        assert "waiting" not in await effects(dsn)
        closed = False
        await send(publisher, topic, "waiting", 10)
        await until(lambda: _count(dsn, 21), "the parked key")
        await send(publisher, topic, "waiting", 11)
        await until(lambda: _count(dsn, 22), "a later record of the freed key")
    assert await effects(dsn) == {"free": list(range(10)), "waiting": list(range(12))}
    assert await rows(dsn, "SELECT 1 FROM parked_keys UNION ALL SELECT 1 FROM parked_records") == []


async def test_bounded_retries_then_a_dead_letter_that_frees_the_key(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "bounded", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)

    async def fail_on_zero(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        if any(json.loads(message.envelope.data)["n"] == 0 for message in messages):
            raise ZeroDivisionError("personal data of Jane Doe")
        await record_effect(uow, messages)

    async with consuming(kafka_bootstrap, dsn, topic, fail_on_zero, LoopOptions(retry=QUICK)) as (_, publisher):
        for n in range(3):
            await send(publisher, topic, "a", n)
        await until(lambda: _count(dsn, 2), "the followers of the dead letter")
        dead = await until(lambda: read_topic(kafka_bootstrap, topic.dlq), "a dead letter")
    assert await effects(dsn) == {"a": [1, 2]}
    assert (dead[0].header("x-attempt"), dead[0].header("x-error")) == ("2", "ZeroDivisionError")


async def test_too_many_dead_letters_stop_the_consumer_instead_of_emptying_the_topic(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "limit", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)

    async def refuse(_uow: UnitOfWork, _messages: Sequence[Message]) -> None:
        raise Invalid("bad_deploy", "everything is refused")

    options = LoopOptions(retry=QUICK, max_consecutive_dead=5)
    loops: list[BatchLoop] = []

    async def halted() -> bool:
        return loops[-1].halted is not None

    async with consuming(kafka_bootstrap, dsn, topic, refuse, options) as (loop, publisher):
        loops.append(loop)
        for n in range(20):
            await send(publisher, topic, f"k{n}", n)
        await until(halted, "the loop to halt")
        dead = await until(lambda: read_topic(kafka_bootstrap, topic.dlq), "dead letters")
        assert len(dead) == 5

    async with consuming(kafka_bootstrap, dsn, topic, refuse, options) as (loop, _):
        loops.append(loop)
        await until(halted, "the loop to halt again")
        dead = await until(lambda: read_topic(kafka_bootstrap, topic.dlq), "dead letters")
        assert len(dead) == 10, "each start gets on; a dead letter is one once"

    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions(retry=QUICK)):
        await until(lambda: _count(dsn, 10), "the rest, after a good deploy")


async def test_what_one_source_sends_does_not_stop_the_consumer_for_all_others(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "isolation", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)

    async def refuse_one(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        if any(message.envelope.source == "bad" for message in messages):
            raise Invalid("unreadable_payload", "this source sends nonsense")
        await record_effect(uow, messages)

    options = LoopOptions(retry=QUICK, max_consecutive_dead=5)
    async with consuming(kafka_bootstrap, dsn, topic, refuse_one, options) as (loop, publisher):
        for good in ("x", "y"):
            await publisher.publish(topic, good, replace(event(good, b'{"n": 1}'), source=good), timeout_s=30)
        await until(lambda: _count(dsn, 2), "what the good sources sent")
        for n in range(30):
            await publisher.publish(topic, f"b{n}", replace(event(f"b{n}", b'{"n": 1}'), source="bad"), timeout_s=30)
        await publisher.publish(topic, "z", replace(event("z", b'{"n": 2}'), source="x"), timeout_s=30)
        await until(lambda: _count(dsn, 3), "what a good source sent after them")
        assert loop.halted is None
        assert len(await read_topic(kafka_bootstrap, topic.dlq)) == 30


async def test_a_database_outage_delays_effects_and_loses_none(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "outage", partitions=2)
    dsn = await make_database(postgres_server, EFFECTS)
    name = dsn.rsplit("/", 1)[1].split("?")[0]
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions(retry=QUICK)) as (_, publisher):
        await send(publisher, topic, "a", 0)
        await until(lambda: _count(dsn, 1), "the first effect")
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres_server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        for n in range(1, 30):
            await send(publisher, topic, "a", n)
        postgres_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await until(lambda: _count(dsn, 30), "all effects after the outage")
    assert await effects(dsn) == {"a": list(range(30))}
    assert await read_topic(kafka_bootstrap, topic.dlq) == []


async def _count(dsn: str, wanted: int) -> bool:
    return bool((await rows(dsn, "SELECT count(*) FROM effects"))[0][0] >= wanted)


async def _parked(dsn: str, wanted: int) -> bool:
    return bool((await rows(dsn, "SELECT count(*) FROM parked_records"))[0][0] == wanted)
