"""The relay: sends the outbox to Kafka, one relay per database, so that a key has one writer.

It reads below the oldest running transaction, since sequence order is not commit order
(https://event-driven.io/en/ordering_in_postgres_outbox/). A crash between send and delete sends again; readers' inboxes
absorb that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import asyncpg

from chassis.clock import Clock, SystemClock
from chassis.db.connection import is_unavailable, server_settings
from chassis.db.database import Database
from chassis.kafka.rows import Row
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import OUTBOX_AGE, OUTBOX_PENDING, OUTBOX_RELAYED, counter, gauge

log = logger(__name__)

RELAY_LOCK: Final = 7_241_002
RELAY_BATCH: Final = 2000
# The wake-up from this process covers the usual case; the poll finds what another replica wrote.
POLL_INTERVAL_S: Final = 0.05
# A replica that is not the relay asks this often whether it should take over.
STANDBY_INTERVAL_S: Final = 1.0
ERROR_BACKOFF_S: Final = 0.5
GAUGE_INTERVAL_S: Final = 5.0
_BEGINNING: Final = ("0", 0)


class Sender(Protocol):
    """What the relay needs of a producer: deliver all rows, in order per key, or raise."""

    async def send_rows(self, rows: Sequence[Row]) -> None:
        """Return once every row is acknowledged."""
        ...


class OutboxRelay:
    """Sends the outbox to Kafka. Every replica runs one; the one that holds the advisory lock works."""

    def __init__(self, database: Database, sender: Sender, clock: Clock | None = None) -> None:
        self._database = database
        self._sender = sender
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()
        self._stopping = False
        self._sent = _BEGINNING
        database.on_outbox.append(self._wake.set)

    async def run(self) -> None:
        """Relay until cancelled or drained; survives database and broker outages."""
        while not self._stopping:
            try:
                await self._lead()
            except Exception as error:
                if not (isinstance(error, asyncpg.PostgresError) or is_unavailable(error)):
                    raise
                log.warning("outbox_relay_lost_database", error=type(error).__name__)
                await self._clock.sleep(ERROR_BACKOFF_S)

    async def drain(self, timeout_s: float) -> None:
        """Ask the relay to finish: it returns from `run` once the outbox is empty or `timeout_s` is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while await self._pending():
                    self._wake.set()
                    await self._clock.sleep(POLL_INTERVAL_S)
        self._stopping = True
        self._wake.set()

    async def _lead(self) -> None:
        """Hold the lock on a connection of its own, whose end frees the lock, and relay while it lives."""
        # A queue's statistics always lie: after a burst the planner takes it for small and reads all its dead rows.
        settings = server_settings(f"{self._database.service}-relay") | {"enable_seqscan": "off"}
        # It only deletes what the broker has: where a crash of the database undoes that, the rows are sent once more.
        settings |= {"synchronous_commit": "off"}
        connection = await asyncpg.connect(self._database.dsn, server_settings=settings, timeout=5)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RELAY_LOCK):
                await self._clock.sleep(STANDBY_INTERVAL_S)
                if self._stopping:
                    return
            await self._relay(connection)
        finally:
            await connection.close(timeout=1)

    async def _relay(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._sent = _BEGINNING
        measured = 0.0
        while True:
            if self._clock.monotonic() - measured > GAUGE_INTERVAL_S:
                await self._measure(connection)
                measured = self._clock.monotonic()
            self._wake.clear()
            if await self._send_batch(connection):
                continue
            if self._stopping:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_INTERVAL_S)

    async def _send_batch(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        records = await connection.fetch(
            """SELECT xid::text, id, topic, key, value, headers FROM outbox
               WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) AND (xid, id) > ($2::text::xid8, $3)
               ORDER BY xid, id LIMIT $1""",
            RELAY_BATCH,
            *self._sent,
        )
        if not records:
            return 0
        rows = [Row(topic, key, value, headers) for _, _, topic, key, value, headers in records]
        try:
            await self._sender.send_rows(rows)
        except Exception as error:  # noqa: BLE001 (whatever the client raises, the rows stay and are sent again)
            log.warning("outbox_relay_send_failed", error=type(error).__name__, rows=len(rows))
            await self._clock.sleep(ERROR_BACKOFF_S)
            return 0
        # All transactions below the horizon are over, so nothing can have slipped in before the last row that was sent.
        # Reading on from there spares the next query the index entries of rows that are gone but not yet vacuumed.
        last = (records[-1]["xid"], records[-1]["id"])
        await connection.execute(
            """DELETE FROM outbox
               WHERE (xid, id) > ($1::text::xid8, $2) AND (xid, id) <= ($3::text::xid8, $4)""",
            *self._sent,
            *last,
        )
        self._sent = last
        _count_relayed(rows)
        return len(rows)

    async def _measure(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        found: Any = await connection.fetchrow(
            """SELECT count(*) AS pending, coalesce(extract(epoch FROM now() - min(at)), 0)::float8 AS age
               FROM (SELECT at FROM outbox ORDER BY xid, id LIMIT 100000) AS head"""
        )
        gauge(OUTBOX_PENDING).set(found["pending"])
        gauge(OUTBOX_AGE).set(found["age"])

    async def _pending(self) -> bool:
        async with self._database.connection() as connection:
            return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"))


def _count_relayed(rows: Sequence[Row]) -> None:
    counts: dict[str, int] = {}
    for sent in rows:
        counts[sent.topic] = counts.get(sent.topic, 0) + 1
    for topic, count in counts.items():
        counter(OUTBOX_RELAYED).labels(topic).inc(count)
