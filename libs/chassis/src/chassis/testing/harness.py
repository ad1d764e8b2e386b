"""What an integration test of a consumer needs: a database with the shared tables, topics of its own, patience.

Everything is real; names get a random suffix, because topics outlive a test.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db import tenancy
from chassis.db.database import Database
from chassis.db.relay import OutboxRelay
from chassis.db.schema import add_shared_tables
from chassis.kafka.broker import LoopRunner
from chassis.kafka.loop import BatchLoop, Handler, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.topics import create_topics
from chassis.testing.postgres import PostgresAdmin
from contracts.envelope import Envelope, Headers
from contracts.topics import RELEASE_DELAY, RETRY_DELAYS, PhysicalTopic, Topic

POLL_S = 0.02
PATIENCE_S = 30.0
# The consumer that `consuming` runs.
CONSUMER = "test-consumer"


@dataclass(frozen=True, slots=True)
class Seen:
    """A record read back from a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def header(self, name: str) -> str:
        """Return a header as text; raises `KeyError` when it is absent."""
        return dict(self.headers)[name].decode()


async def until(condition: Callable[[], Awaitable[Any]], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Poll `condition` until it is true and return its value; fails, saying `what`, after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}")
        await asyncio.sleep(POLL_S)


async def make_topic(bootstrap: str, name: str, *, partitions: int = 4, retries: bool = True) -> Topic:
    """Create and return a topic of the test's own, with its retry and dead-letter topics."""
    unique = f"{name}.{uuid.uuid4().hex[:8]}"
    topic = Topic(unique, "test", ("test.happened.v1",), "test", ("test",), partitions=partitions, retries=retries)
    physical = [PhysicalTopic(topic.name, partitions, {})]
    if retries:
        physical += [PhysicalTopic(topic.retry(delay), 1, {}) for delay in (RELEASE_DELAY, *RETRY_DELAYS)]
        physical.append(PhysicalTopic(topic.dlq, 1, {}))
    await create_topics(bootstrap, topics=physical)
    return topic


async def make_database(admin: PostgresAdmin, *statements: str) -> str:
    """Create a database with the shared tables and the test's own, and return its DSN."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    dsn = admin.create_database(name, name)
    metadata = sa.MetaData()
    add_shared_tables(metadata)
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for statement in statements:
            await connection.execute(sa.text(statement))
    await engine.dispose()
    return dsn


async def rows(dsn: str, sql: str, *args: object) -> list[asyncpg.Record]:
    """Return what a query finds, on a connection of its own that sees the rows of all tenants."""
    connection = await asyncpg.connect(dsn, server_settings={tenancy.SETTING: tenancy.EVERYONE})
    try:
        found: list[asyncpg.Record] = await connection.fetch(sql, *args)
        return found
    finally:
        await connection.close()


async def read_topic(bootstrap: str, name: str) -> list[Seen]:
    """Return everything that is on a topic now, in order per partition."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=20)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or await _ask(consumer, name))
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        seen: list[Seen] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for batch in (await consumer.getmany(timeout_ms=100)).values():
                seen += [Seen(r.partition, r.offset, r.key, r.value, list(r.headers)) for r in batch]
        return seen
    finally:
        await consumer.stop()


async def _ask(consumer: AIOKafkaConsumer, name: str) -> set[int]:
    consumer.subscribe([name])
    await consumer._client.force_metadata_update()  # noqa: SLF001 (a topic that this client has not heard of yet)
    found: set[int] = consumer.partitions_for_topic(name) or set()
    consumer.unsubscribe()
    return found


def event(identifier: str, data: bytes = b"{}") -> Envelope:
    """Return an envelope with a given id."""
    return Envelope(id=identifier, source="test", type="test.happened.v1", data=data)


@asynccontextmanager
async def consuming(
    bootstrap: str, dsn: str, topic: Topic, handler: Handler, options: LoopOptions
) -> AsyncIterator[tuple[BatchLoop, Publisher]]:
    """Run a consumer of a topic with its database, producer and outbox relay until the block ends."""
    database, publisher = Database(dsn, service="test"), Publisher(bootstrap)
    loop = BatchLoop(CONSUMER, [topic], handler, database, options=options)
    runner = LoopRunner(bootstrap)
    runner.add(loop)
    relay = OutboxRelay(database, publisher)
    await database.open()
    await publisher.start()
    relaying = asyncio.create_task(relay.run())
    await runner.start()
    try:
        yield loop, publisher
    finally:
        await runner.stop()
        await relay.drain(2)
        await asyncio.wait_for(relaying, 10)
        await publisher.stop()
        await database.close()
