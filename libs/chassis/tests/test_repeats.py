"""An id that comes again: the same content is a repeat, another content is a conflict. Real broker, real database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from prometheus_client import REGISTRY

from chassis.db import inbox
from chassis.db.database import Database, UnitOfWork
from chassis.kafka import repeats
from chassis.kafka.loop import LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.records import Message, Origin
from chassis.kafka.rows import unpack_headers
from chassis.testing.harness import CONSUMER, Seen, consuming, make_database, make_topic, read_topic, rows, until
from chassis.testing.postgres import PostgresAdmin
from contracts.envelope import Envelope
from contracts.topics import Topic

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

EFFECTS = "CREATE TABLE effects (seq bigserial, n int NOT NULL)"


def envelope(identifier: str, n: int, fingerprint: str | None) -> Envelope:
    extensions = {} if fingerprint is None else {"fingerprint": fingerprint}
    return Envelope(identifier, "test", "test.happened.v1", json.dumps({"n": n}).encode(), extensions=extensions)


async def record_effect(uow: UnitOfWork, messages: Sequence[Message]) -> None:
    for message in messages:
        n = json.loads(message.envelope.data)["n"]
        await uow.connection.execute("INSERT INTO effects (n) VALUES ($1)", n)


async def write(bootstrap: str, topic: Topic, *envelopes: Envelope) -> None:
    publisher = Publisher(bootstrap)
    await publisher.start()
    for one in envelopes:
        await publisher.publish(topic, "k", one, timeout_s=30)
    await publisher.stop()


async def took_effect(dsn: str) -> list[int]:
    return [row["n"] for row in await rows(dsn, "SELECT n FROM effects ORDER BY seq")]


async def ended_with(dsn: str, n: int) -> bool:
    return n in await took_effect(dsn)


async def test_a_repeat_is_dropped_and_a_conflict_is_dead_lettered_with_its_reason(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "conflict", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)
    # One batch: the second of an id meets the mark of its own transaction.
    first = [envelope("a", 1, "f1"), envelope("a", 2, "f1"), envelope("a", 3, "f2"), envelope("b", 4, None)]
    await write(kafka_bootstrap, topic, *first)
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions()):
        await until(lambda: ended_with(dsn, 4), "the first batch")
        # Another batch: it meets the marks of an earlier one; of `b`, nobody knows what it was.
        later = [envelope("a", 5, "f3"), envelope("a", 6, None), envelope("b", 7, "f1"), envelope("c", 8, "f1")]
        await write(kafka_bootstrap, topic, *later)
        await until(lambda: ended_with(dsn, 8), "the second batch")
        dead = await until(lambda: _dead(kafka_bootstrap, topic, 2), "both conflicts")
    assert await took_effect(dsn) == [1, 4, 8]
    assert [json.loads(letter.value or b"")["n"] for letter in dead] == [3, 5]
    assert {letter.header("x-error-code") for letter in dead} == {"event_conflict"}
    assert [(letter.header("x-consumer"), letter.header("x-offset")) for letter in dead] == [
        (CONSUMER, "2"),
        (CONSUMER, "4"),
    ]
    assert dead[0].header("ce_fingerprint") == "f2"
    labels = {"topic": topic.name, "outcome": "conflict"}
    assert REGISTRY.get_sample_value("kafka_loop_records_total", labels) == 2


async def test_a_sender_that_reuses_one_id_for_everything_does_not_stop_the_consumer(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "reuse", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)
    await write(kafka_bootstrap, topic, *(envelope("same", n, f"f{n}") for n in range(30)), envelope("other", 99, "f"))
    options = LoopOptions(max_consecutive_dead=5, min_dead=5)
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, options) as (loop, _):
        await until(lambda: ended_with(dsn, 99), "the one behind them")
        await until(lambda: _dead(kafka_bootstrap, topic, 29), "29 dead letters")
        assert loop.halted is None
    assert await took_effect(dsn) == [0, 99]


async def test_who_wants_every_record_gets_conflicting_ones_too(
    kafka_bootstrap: str, postgres_server: PostgresAdmin
) -> None:
    topic = await make_topic(kafka_bootstrap, "position", partitions=1)
    dsn = await make_database(postgres_server, EFFECTS)
    await write(kafka_bootstrap, topic, envelope("a", 1, "f1"), envelope("a", 2, "f1"), envelope("a", 3, "f2"))
    async with consuming(kafka_bootstrap, dsn, topic, record_effect, LoopOptions(dedupe_by="position")):
        await until(lambda: ended_with(dsn, 3), "all three")
    assert await took_effect(dsn) == [1, 2, 3]
    assert not await read_topic(kafka_bootstrap, topic.dlq)


async def test_a_conflict_that_is_read_again_is_dead_lettered_once(postgres_server: PostgresAdmin) -> None:
    database = Database(await make_database(postgres_server), service="test")
    await database.open()
    topic = Topic("test.happened.v1", "test", ("test.happened.v1",), "test", ("test",), partitions=1)
    messages = [
        Message(envelope("a", n, f"f{n}"), b"k", Origin(topic.name, 0, n), envelope("a", n, f"f{n}").headers())
        for n in range(2)
    ]
    try:
        for wanted in ([0], []):
            async with database.unit_of_work() as uow:
                fresh, conflicts = await repeats.take_new(uow, CONSUMER, messages, "fact")
                assert [message.origin.offset for message in fresh] == wanted
                assert [message.origin.offset for message in conflicts] == [1]
                await repeats.bury(uow, CONSUMER, conflicts, {topic.name: topic})
        (letter,) = await rows(database.dsn, "SELECT topic, headers FROM outbox")
    finally:
        await database.close()
    assert letter["topic"] == topic.dlq
    assert dict(unpack_headers(letter["headers"]))["x-error-code"] == b"event_conflict"


async def test_two_consumers_that_meet_one_id_at_once_agree_who_was_first(postgres_server: PostgresAdmin) -> None:
    database = Database(await make_database(postgres_server), service="test")
    await database.open()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with database.unit_of_work() as uow:
            assert await inbox.claim(uow.connection, CONSUMER, ["a"], ["f1"]) == {"a"}
            inside.set()
            await go_on.wait()

    async def second() -> tuple[set[str], str]:
        async with database.unit_of_work() as uow:
            new = await inbox.claim(uow.connection, CONSUMER, ["a"], ["f2"])
            return new, (await inbox.known(uow.connection, CONSUMER, ["a"]))["a"]

    try:
        holding = asyncio.create_task(first())
        await inside.wait()
        waiting = asyncio.create_task(second())
        locked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await until(lambda: rows(database.dsn, locked), "the second waits for the first")
        go_on.set()
        await holding
        assert await waiting == (set(), "f1")
    finally:
        await database.close()


async def _dead(bootstrap: str, topic: Topic, wanted: int) -> list[Seen]:
    found = await read_topic(bootstrap, topic.dlq)
    return found if len(found) >= wanted else []
