"""A consumer process for the crash tests: records each message in Postgres and says so on another topic.

Run as `python loop_worker.py BOOTSTRAP DSN IN_TOPIC OUT_TOPIC INSTANCE`; ends on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from chassis.db.database import Database, UnitOfWork
from chassis.db.relay import OutboxRelay
from chassis.kafka.broker import LoopRunner
from chassis.kafka.loop import BatchLoop, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.records import Message
from contracts.envelope import Envelope
from contracts.topics import Topic


def topic(name: str) -> Topic:
    """Return a topic whose consumers use no retries."""
    return Topic(name, "test", ("test.happened.v1",), "test", ("test",), retries=False)


async def main(bootstrap: str, dsn: str, source: str, target: str, instance: str) -> None:
    """Consume until SIGTERM."""
    out = topic(target)

    async def record(uow: UnitOfWork, messages: Sequence[Message]) -> None:
        await uow.connection.executemany(
            "INSERT INTO effects (key, n) VALUES ($1, $2)",
            [(message.text_key, int(message.envelope.data)) for message in messages],
        )
        for message in messages:
            envelope = Envelope(message.envelope.id, "worker", "test.happened.v1", message.envelope.data)
            uow.publish(out, message.text_key, envelope)

    database = Database(dsn, service="worker", pool_size=4)
    publisher = Publisher(bootstrap)
    loop = BatchLoop(f"consumer-of-{source}", [topic(source)], record, database, options=LoopOptions(max_records=200))
    runner = LoopRunner(bootstrap, instance=instance)
    runner.add(loop)
    relay = OutboxRelay(database, publisher)
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await database.open()
    await publisher.start()
    relaying = asyncio.create_task(relay.run())
    await runner.start()
    await stop.wait()
    await runner.stop()
    await relay.drain(5)
    await relaying
    await publisher.stop()
    await database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
