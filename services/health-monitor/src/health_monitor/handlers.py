"""The consumers: of observed calls, into memory and out as decisions before any database is asked; and of usage.

Unlike the chassis' loop the first is not one transaction per batch, because a failover must not wait for Postgres
(health-monitor.md §3): `Keeper` saves and commits offsets. Reports are neither retried nor parked: late evidence is
worth nothing. One that cannot be read is dead-lettered. Must never raise for a record.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.failures import FailedRecord
from chassis.kafka.loop import BatchLoop, Consumer, LoopOptions, Partition
from chassis.kafka.records import ConsumerRecord, Message, Origin
from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import from_record
from contracts.errors import Invalid
from contracts.events.sync import CallsObserved
from contracts.topics import SYNC_CALLS, SYNC_QUOTA_USAGE
from health_monitor.audit import SERVICE
from health_monitor.keeper import Keeper
from health_monitor.monitor import Monitor
from health_monitor.quotas import Quotas
from health_monitor.repository import routes

log = logger(__name__)

# Envelopes that a producer's retry or a re-read may bring again.
_REMEMBERED: Final = 10_000
_TAKE_OVER_TIMEOUT_S: Final = 2.0
_MIRROR_TIMEOUT_S: Final = 1.0
_CAPABILITY: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FAILOVER_MEMORY: Final = timedelta(hours=1)


class Generations:
    """Gives out generations of owners, and what their routes remember.

    `mirrored` is set once the mirror was read: what an earlier owner announced and could not save any more is there.
    """

    def __init__(
        self,
        database: Database,
        monitor: Monitor,
        clock: Clock,
        *,
        least: int = 1,
        mirrored: asyncio.Event | None = None,
    ) -> None:
        self._database = database
        self._monitor = monitor
        self._clock = clock
        self._least = least
        self._mirrored = mirrored

    async def next(self) -> int:
        """Return a new generation and load what routes remember; raises what the database raises."""
        if self._mirrored is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MIRROR_TIMEOUT_S):
                    await self._mirrored.wait()
        async with asyncio.timeout(_TAKE_OVER_TIMEOUT_S), self._database.unit_of_work() as uow:
            self._monitor.memory = await routes.memory(uow.connection, self._clock.now() - _FAILOVER_MEMORY)
            return await routes.next_generation(uow.connection, self._least)


class EvidenceLoop(BatchLoop):
    """Feeds `sync.calls` to the monitor and its decisions to the keeper."""

    def __init__(
        self,
        monitor: Monitor,
        keeper: Keeper,
        next_generation: Callable[[], Awaitable[int]],
        database: Database,
        clock: Clock,
    ) -> None:
        options = LoopOptions(ordered=False)
        super().__init__(SERVICE, [SYNC_CALLS], _no_messages, database, options=options, clock=clock)
        self._monitor = monitor
        self._keeper = keeper
        self._next_generation = next_generation
        self._mine: set[int] = set()
        self._known: dict[str, None] = {}

    def subscription(self) -> list[str]:
        """Return the topic alone: nothing is retried."""
        return [SYNC_CALLS.name]

    async def handle(self, records: Sequence[ConsumerRecord], kafka: Consumer) -> None:
        """Weigh one polled batch; its offsets are committed once it is saved."""
        async with self.busy:
            await self.assigned(kafka.assignment())
            offsets: dict[Partition, int] = {}
            for record in records:
                offsets[record.topic, record.partition] = record.offset + 1
                try:
                    calls = self._report(record)
                except Invalid as error:
                    await self._refuse(record, error)
                    continue
                if calls is not None:
                    self._keeper.take(self._monitor.observe(calls))
                    self._keeper.count(calls)
            self.positions |= offsets
            self._keeper.progress(kafka, offsets)

    async def assigned(self, partitions: Collection[Partition]) -> None:
        """Own the routes of the partitions that this member has now; new ones under a new generation.

        Without the database a known generation goes on: readers drop it where another owner's is greater.
        """
        mine = {partition for topic, partition in partitions if topic == SYNC_CALLS.name}
        if mine == self._mine:
            return
        generation = self._monitor.generation
        if mine - self._mine:
            try:
                generation = await self._next_generation()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("no_new_generation", error=type(error).__name__, generation=generation)
                if generation:
                    self._own(mine, generation)
                return
        self._mine = mine
        self._own(mine, generation)

    def _own(self, partitions: set[int], generation: int) -> None:
        self._keeper.take(self._monitor.own(partitions, generation))
        self._keeper.disown()

    def _report(self, record: ConsumerRecord) -> CallsObserved | None:
        envelope = from_record(record.value, record.headers)
        if envelope.dedupe_id in self._known:
            return None
        self._known[envelope.dedupe_id] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        calls = decode(CallsObserved, envelope.data)
        if _CAPABILITY.fullmatch(calls.capability) is None:
            raise Invalid("bad_capability", "capability: not a capability's name", field="capability")
        return calls

    async def _refuse(self, record: ConsumerRecord, error: Invalid) -> None:
        origin = Origin(record.topic, record.partition, record.offset)
        failed = FailedRecord(self.consumer, origin, record.key, record.value, record.headers)
        try:
            await self._give_up(failed, error)
        except Exception as outage:
            if not is_unavailable(outage):
                raise
            log.warning("unreadable_report_dropped", origin=origin.mark, code=error.code)


class UsageLoop(BatchLoop):
    """Feeds `sync.quota-usage` to the quotas, and says whose buckets' reports come here.

    Reports of all owners of a kind of bucket share a key, and each counts for itself: none waits behind another.
    """

    def __init__(self, quotas: Quotas, database: Database, clock: Clock) -> None:
        options = LoopOptions(ordered=False)
        name = f"{SERVICE}-quotas"
        super().__init__(name, [SYNC_QUOTA_USAGE], quotas.handle, database, options=options, clock=clock)
        self._quotas = quotas

    async def assigned(self, partitions: Collection[Partition]) -> None:
        """Forecast the buckets of the partitions that this member has now, and no others."""
        self._quotas.own({partition for topic, partition in partitions if topic == SYNC_QUOTA_USAGE.name})


async def _no_messages(_uow: UnitOfWork, _messages: Sequence[Message]) -> None:
    """Is never called: batches go to the monitor as they are polled."""
