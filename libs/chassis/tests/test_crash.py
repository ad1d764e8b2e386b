"""What survives SIGKILL, rebalances and a broker restart: sent set = effect set, none twice, order kept per key."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from chassis.kafka.producer import Publisher
from chassis.testing.harness import event, make_database, make_topic, read_topic, rows, until
from chassis.testing.kafka import PrivateKafka
from chassis.testing.postgres import PostgresAdmin
from contracts.errors import Transient
from contracts.topics import Topic

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

EFFECTS = "CREATE TABLE effects (seq bigserial, key text NOT NULL, n int NOT NULL)"
WORKER = Path(__file__).parent / "loop_worker.py"
EVENTS, KEYS = 6000, 100


class Workers:
    """Worker processes that this test started, by name; only those are ever signalled."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self._arguments = arguments
        self._log = log
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with self._log.open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, str(WORKER), *self._arguments, name], stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait(10)

    def terminate(self, name: str) -> None:
        process = self._running.pop(name)
        process.terminate()
        process.wait(30)

    def kill_all(self) -> None:
        for name in list(self._running):
            self.kill(name)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "workers.log"


async def produce(publisher: Publisher, topic: Topic, first: int, count: int) -> None:
    for start in range(first, first + count, 100):
        await asyncio.gather(
            *(
                publisher.publish(topic, f"k{n % KEYS}", event(f"e{n}", str(n).encode()), timeout_s=60)
                for n in range(start, start + 100)
            )
        )


async def settled(dsn: str, wanted: int) -> bool:
    effects, waiting = (await rows(dsn, "SELECT (SELECT count(*) FROM effects), (SELECT count(*) FROM outbox)"))[0]
    return bool(effects >= wanted and waiting == 0)


async def assert_once_and_in_order(bootstrap: str, dsn: str, out: Topic, wanted: int) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for row in await rows(dsn, "SELECT key, n FROM effects ORDER BY seq"):
        found[row["key"]].append(row["n"])
    counts = Counter(n for numbers in found.values() for n in numbers)
    assert set(counts) == set(range(wanted)), "an event has no effect"
    assert set(counts.values()) == {1}, "an event has two effects"
    assert [key for key, numbers in found.items() if numbers != sorted(numbers)] == []
    # The relay may send again after a crash, never out of order for the first time a reader sees each message.
    first_seen: dict[bytes | None, list[int]] = defaultdict(list)
    for seen in await read_topic(bootstrap, out.name):
        number = int(seen.value or b"-1")
        if number not in first_seen[seen.key]:
            first_seen[seen.key].append(number)
    assert {n for numbers in first_seen.values() for n in numbers} == set(range(wanted))
    assert [key for key, numbers in first_seen.items() if numbers != sorted(numbers)] == []


async def test_two_members_killed_and_restarted_at_random_under_load(
    kafka_bootstrap: str, postgres_server: PostgresAdmin, log: Path
) -> None:
    topic = await make_topic(kafka_bootstrap, "crash", partitions=6, retries=False)
    out = await make_topic(kafka_bootstrap, "crash-out", partitions=3, retries=False)
    dsn = await make_database(postgres_server, EFFECTS)
    workers = Workers(kafka_bootstrap, dsn, topic.name, out.name, log=log)
    publisher = Publisher(kafka_bootstrap)
    await publisher.start()
    chooser = random.Random(20261121)
    try:
        workers.start("a")
        workers.start("b")
        for round_number in range(EVENTS // 500):
            victim = chooser.choice("ab")
            # Strike while work is under way: as soon as a random number of this round's effects shows.
            target = round_number * 500 + chooser.randrange(1, 300)
            await produce(publisher, topic, round_number * 500, 500)
            await until(lambda target=target: _at_least(dsn, target), "progress", 60)  # type: ignore[misc]
            if round_number % 4 == 3:
                workers.terminate(victim)
            else:
                workers.kill(victim)
            workers.start(victim)
        await until(lambda: settled(dsn, EVENTS), "all effects relayed", 90)
    finally:
        workers.kill_all()
        await publisher.stop()
    await assert_once_and_in_order(kafka_bootstrap, dsn, out, EVENTS)


async def test_a_member_that_joins_and_one_that_leaves_under_load(
    kafka_bootstrap: str, postgres_server: PostgresAdmin, log: Path
) -> None:
    topic = await make_topic(kafka_bootstrap, "rebalance", partitions=6, retries=False)
    out = await make_topic(kafka_bootstrap, "rebalance-out", partitions=3, retries=False)
    dsn = await make_database(postgres_server, EFFECTS)
    workers = Workers(kafka_bootstrap, dsn, topic.name, out.name, log=log)
    publisher = Publisher(kafka_bootstrap)
    await publisher.start()
    producing = asyncio.create_task(produce(publisher, topic, 0, EVENTS))
    try:
        workers.start("a")
        await until(lambda: _at_least(dsn, EVENTS // 10), "the first member at work", 60)
        workers.start("b")
        await producing
        await until(lambda: settled(dsn, EVENTS), "all effects relayed", 90)
    finally:
        producing.cancel()
        workers.kill_all()
        await publisher.stop()
    await assert_once_and_in_order(kafka_bootstrap, dsn, out, EVENTS)


async def test_a_broker_restart_under_a_producer_and_a_consumer_loses_nothing(
    server_dir: Path, postgres_server: PostgresAdmin, log: Path
) -> None:
    with PrivateKafka(server_dir / "restarted-kafka") as broker:
        topic = await make_topic(broker.bootstrap, "restart", partitions=3, retries=False)
        out = await make_topic(broker.bootstrap, "restart-out", partitions=3, retries=False)
        dsn = await make_database(postgres_server, EFFECTS)
        workers = Workers(broker.bootstrap, dsn, topic.name, out.name, log=log)
        publisher = Publisher(broker.bootstrap)
        await publisher.start()
        try:
            workers.start("a")
            await produce(publisher, topic, 0, 600)
            await until(lambda: _at_least(dsn, 200), "the consumer at work", 60)
            broker.kill()
            with pytest.raises(Transient):
                await publisher.publish(topic, "k0", event("probe", b"0"), timeout_s=0.5)
            restarting = asyncio.create_task(asyncio.to_thread(broker.start))
            await _produce_until_taken(publisher, topic, 600, 1200)
            await restarting
            await until(lambda: settled(dsn, 1200), "all effects relayed after the restart", 120)
        finally:
            workers.kill_all()
            await publisher.stop()
        effects = Counter(row["n"] for row in await rows(dsn, "SELECT n FROM effects WHERE n > 0"))
        assert set(effects) == set(range(1, 1200))
        assert set(effects.values()) == {1}


async def _produce_until_taken(publisher: Publisher, topic: Topic, first: int, end: int) -> None:
    """Send each event until it is acknowledged, as a sender that retries would; the ids stay the same."""
    for n in range(first, end):

        async def taken(n: int = n) -> bool:
            try:
                await publisher.publish(topic, f"k{n % KEYS}", event(f"e{n}", str(n).encode()), timeout_s=2)
            except Transient:
                return False
            return True

        await until(taken, f"event {n} acknowledged", 90)


async def _at_least(dsn: str, wanted: int) -> bool:
    return bool((await rows(dsn, "SELECT count(*) FROM effects"))[0][0] >= wanted)
