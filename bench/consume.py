"""`make bench-consume`: events per second of the batch loop, beside FastStream's single-message path in the same run.

Everything is real: Kafka, PostgreSQL with fsync on, one consuming process that also runs the relay. The clock runs from
the first event a handler sees to the acknowledgement of the last outgoing message. Prints figures and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage

from chassis.db.database import Database, UnitOfWork
from chassis.db.relay import OutboxRelay
from chassis.kafka.broker import LoopRunner
from chassis.kafka.loop import BatchLoop, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.records import Message
from chassis.kafka.rows import Row, row
from chassis.service import settle_garbage_collector
from chassis.testing.harness import make_database, make_topic
from chassis.testing.kafka import PrivateKafka
from chassis.testing.postgres import PrivatePostgres
from contracts.envelope import Envelope, from_record
from contracts.topics import Topic

EFFECTS = "CREATE TABLE effects (event text NOT NULL, key text NOT NULL)"
KEYS = 500
MAX_RECORDS, WIDTH = 2000, 2
BODY = b'{"payment": "pay_%06d", "status": "succeeded", "amount": 4200, "note": "' + b"x" * 330 + b'"}'


@dataclass(frozen=True)
class Figure:
    """What one run measured."""

    events: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


class Countdown:
    """Knows when the first event was seen and when the last one was acknowledged."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self._wanted = wanted
        self._first = self._cpu = 0.0
        self.done: asyncio.Future[Figure] = asyncio.get_running_loop().create_future()

    def seen(self) -> None:
        """Start the clock, once."""
        if not self._first:
            self._first, self._cpu = time.perf_counter(), time.process_time()

    def finished(self, count: int) -> None:
        """Count events that are all done."""
        self._left -= count
        if self._left <= 0 and not self.done.done():
            now, cpu = time.perf_counter(), time.process_time()
            self.done.set_result(Figure(self._wanted, now - self._first, cpu - self._cpu))


class CountingPublisher(Publisher):
    """A publisher that tells what it relayed."""

    countdown: Countdown

    async def send_rows(self, rows: Sequence[Row]) -> None:
        """Send and count."""
        await super().send_rows(rows)
        self.countdown.finished(len(rows))


def event(n: int) -> Envelope:
    """Return the n-th event, about 450 bytes of JSON under a 36-byte id."""
    return Envelope(f"01936f00-0000-7000-8000-{n:012d}", "bench", "test.happened.v1", BODY % n)


async def preload(publisher: Publisher, topic: Topic, count: int) -> None:
    """Put events on the topic before the clock runs."""
    for start in range(0, count, 2000):
        rows = []
        for n in range(start, min(start + 2000, count)):
            envelope = event(n)
            key = f"acme:payment:pay_{n % KEYS:06d}".encode()
            rows.append(row(topic.name, key, envelope.data, envelope.headers()))
        await Publisher.send_rows(publisher, rows)


async def batch_loop(bootstrap: str, dsn: str, count: int) -> Figure:
    """Measure the chassis: inbox, effect and outbox in one transaction per batch, relayed."""
    source = await make_topic(bootstrap, "bench-in", partitions=12)
    target = await make_topic(bootstrap, "bench-out", partitions=12, retries=False)
    database = Database(dsn, service="bench")
    publisher = CountingPublisher(bootstrap)
    countdown = publisher.countdown = Countdown(count)

    async def handler(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        countdown.seen()
        effects = [(message.envelope.id, message.text_key) for message in messages]
        await uow.connection.copy_records_to_table("effects", records=effects)
        for message in messages:
            uow.publish(target, message.text_key, message.envelope)

    loader = Publisher(bootstrap)
    await loader.start()
    await preload(loader, source, count)
    await loader.stop()
    runner = LoopRunner(bootstrap)
    runner.add(
        BatchLoop("bench-loop", [source], handler, database, options=LoopOptions(max_records=MAX_RECORDS, width=WIDTH))
    )
    relay = OutboxRelay(database, publisher)
    await database.open()
    await publisher.start()
    relaying = asyncio.create_task(relay.run())
    await runner.start()
    figure = await countdown.done
    await runner.stop()
    await relay.drain(5)
    await relaying
    await publisher.stop()
    await database.close()
    return figure


async def single_message(bootstrap: str, dsn: str, count: int) -> Figure:
    """Measure FastStream's own path: one message, `AckPolicy.ACK`, the same three writes in a transaction each.

    Its outgoing message is published by the handler's producer and awaited, so this side needs no relay.
    """
    source = await make_topic(bootstrap, "bench-single-in", partitions=12)
    target = await make_topic(bootstrap, "bench-single-out", partitions=12, retries=False)
    database = Database(dsn, service="bench")
    publisher = Publisher(bootstrap, linger_ms=0)
    countdown = Countdown(count)
    broker = KafkaBroker(bootstrap, consumer_only=True, logger=None, allow_auto_create_topics=False)

    async def handler(_body: bytes, message: KafkaMessage) -> None:
        countdown.seen()
        record = message.raw_message
        envelope = from_record(record.value, record.headers)  # type: ignore[union-attr]
        key = (record.key or b"").decode()  # type: ignore[union-attr]
        async with database.unit_of_work() as uow:
            new = await uow.connection.fetchval(
                "INSERT INTO inbox (consumer, message_id) VALUES ('single', $1) ON CONFLICT DO NOTHING RETURNING 1",
                envelope.dedupe_id,
            )
            if new:
                await uow.connection.execute("INSERT INTO effects VALUES ($1, $2)", envelope.id, key)
        await publisher.publish(target, key, envelope)
        countdown.finished(1)

    loader = Publisher(bootstrap)
    await loader.start()
    await preload(loader, source, count)
    await loader.stop()
    broker.subscriber(
        source.name,
        group_id="bench-single",
        auto_offset_reset="earliest",
        ack_policy=AckPolicy.ACK,
        decoder=_no_decoding,
    )(handler)
    await database.open()
    await publisher.start()
    await broker.start()
    figure = await countdown.done
    await broker.stop()
    await publisher.stop()
    await database.close()
    return figure


async def _no_decoding(message: KafkaMessage) -> bytes:
    return message.body


async def run(rounds: int, count: int, baseline_count: int) -> None:
    """Run both sides in turn and print."""
    loops: list[Figure] = []
    singles: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as folder,
        PrivateKafka(Path(folder) / "kafka", under_load=True) as kafka,
        PrivatePostgres(Path(folder) / "postgres", durable=True) as postgres,
    ):
        for number in range(rounds):
            dsn = await make_database(postgres.admin, EFFECTS)
            singles.append(await single_message(kafka.bootstrap, dsn, baseline_count))
            loops.append(await batch_loop(kafka.bootstrap, dsn, count))
            print(f"round {number + 1}: {_line('batch loop', loops[-1])}")
            print(f"         {_line('FastStream single ACK', singles[-1])}")
    loop_rate = statistics.median(figure.rate for figure in loops)
    single_rate = statistics.median(figure.rate for figure in singles)
    print(f"\nmedian of {rounds}: batch loop {loop_rate:,.0f}, FastStream single ACK {single_rate:,.0f} events/s")
    print(f"ratio: {loop_rate / single_rate:.1f}")


def _line(name: str, figure: Figure) -> str:
    micros = figure.cpu_seconds / figure.events * 1e6
    return f"{name:<22} {figure.rate:>8,.0f} events/s  {micros:>6.1f} µs CPU each  ({figure.events:,} events)"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--baseline-events", type=int, default=4_000)
    given = parser.parse_args()
    settle_garbage_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(given.rounds, given.events, given.baseline_events))


if __name__ == "__main__":
    main()
