"""The pool and the unit of work: one transaction that holds effects, inbox marks and outgoing messages together.

Application code never commits; it gets a `UnitOfWork` and returns, or raises and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from chassis.db import outbox, tenancy
from chassis.db.clock import DatabaseClock
from chassis.db.connection import ACQUIRE_TIMEOUT_S, Connection, init_connection, server_settings
from chassis.kafka.rows import Row, row
from chassis.telemetry.traces import current_traceparent
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.base import Event
from contracts.ids import uuid7
from contracts.topics import Topic


class UnitOfWork:
    """One open transaction: `connection` runs SQL, `publish` adds messages that exist only if it commits."""

    def __init__(self, connection: Connection, source: str) -> None:
        self.connection = connection
        self._source = source
        self._outgoing: list[Row] = []
        self._callbacks: list[Callable[[], None]] = []

    def publish(self, topic: Topic, key: str, envelope: Envelope) -> None:
        """Add one message to the outbox; it leaves after the commit, in order per key, at least once."""
        self._outgoing.append(row(topic.name, key.encode(), envelope.data, envelope.headers()))

    def emit(
        self,
        topic: Topic,
        key: str,
        event: Event,
        *,
        tenant: str = "",
        trace: str | None = None,
        message_id: str | None = None,
    ) -> None:
        """Publish an event model.

        `message_id` makes the message one fact across replays of its cause; by default it is new. `trace` is the
        `traceparent` of what caused it; by default the current span's.
        """
        envelope = Envelope(
            id=message_id or str(uuid7()),
            source=self._source,
            type=event.TYPE,
            data=encode(event),
            traceparent=trace or current_traceparent(),
            extensions={"tenant": tenant} if tenant else {},
        )
        self.publish(topic, key, envelope)

    def publish_raw(self, row: Row) -> None:
        """Add a message as bytes: what the consumer loop uses for retries and dead letters."""
        self._outgoing.append(row)

    def tombstone(self, topic: Topic, key: str) -> None:
        """Remove `key` from a compacted topic."""
        self._outgoing.append(row(topic.name, key.encode(), None, []))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the transaction is durable; never called if it is not. It must not block or raise."""
        self._callbacks.append(callback)

    async def flush(self) -> bool:
        """Write the collected messages; returns whether there were any."""
        if self._outgoing:
            await outbox.insert(self.connection, self._outgoing)
        return bool(self._outgoing)

    def committed(self) -> None:
        """Run the callbacks; called by `Database` after the commit."""
        for callback in self._callbacks:
            callback()


class Database:
    """A service's own database. Build it unopened, `open` it at start; both are idempotent.

    `clock` tells the database's time from then on, to all replicas the same; each `ping` reads it again.
    """

    def __init__(self, dsn: str, *, service: str, pool_size: int = 10) -> None:
        self._dsn = dsn
        self._service = service
        self._pool_size = pool_size
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._narrowed: set[int] = set()
        self.on_outbox: list[Callable[[], None]] = []
        self.clock = DatabaseClock()

    async def open(self) -> None:
        """Open the pool; raises what `is_unavailable` knows, and may be tried again, when the server refuses."""
        if self._pool is not None:
            return
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=2,
            max_size=self._pool_size,
            init=init_connection,
            reset=self._reset,
            timeout=ACQUIRE_TIMEOUT_S,
            server_settings=server_settings(self._service) | {tenancy.SETTING: tenancy.EVERYONE},
        )
        try:
            await self.ping()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the pool after its connections are returned."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    @property
    def dsn(self) -> str:
        """The connection string, for the one connection that must live outside the pool (the relay's lock)."""
        return self._dsn

    @property
    def service(self) -> str:
        """The name of the service that owns this database."""
        return self._service

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection for reads outside of any unit of work; it sees the tenants of `tenancy.scope`."""
        if self._pool is None:
            raise RuntimeError("the database is not open")
        async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
            tenants = tenancy.current()
            if tenants != tenancy.EVERYONE:
                # For the session: giving the connection back resets all settings to those it was opened with.
                self._narrowed.add(connection.get_server_pid())
                await connection.execute("SELECT set_config($1, $2, false)", tenancy.SETTING, tenants)
            yield connection

    async def _reset(self, connection: Connection) -> None:
        """Make a session as it was opened, if anything but transactions (which are rolled back already) touched it.

        asyncpg's own way is four statements after each use, a third of what a small unit of work costs. Borrowers do
        not set, listen or lock for the session (decision 25): what is needed for longer than a transaction, as the
        relay's lock, has a connection of its own.
        """
        pid = connection.get_server_pid()
        if pid in self._narrowed:
            self._narrowed.discard(pid)
            await connection.execute(cast("Any", connection).get_reset_query())

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """Open one transaction: it commits when the block ends, rolls everything back when it raises."""
        async with self.connection() as connection:
            async with connection.transaction():
                uow = UnitOfWork(connection, source=f"patchbay/{self._service}")
                yield uow
                wrote = await uow.flush()
            uow.committed()
        if wrote:
            for wake in self.on_outbox:
                wake()

    async def ping(self) -> None:
        """Read the database's clock; raises if it does not answer."""
        async with self.connection() as connection:
            asked_at = self.clock.monotonic()
            said = await connection.fetchval("SELECT clock_timestamp()")
            self.clock.learn(said, asked_at, self.clock.monotonic())
