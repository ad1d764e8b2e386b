"""The batch loop: at-least-once in, one effect out, order per key, and no record that stops its neighbours.

A slice of a batch, whole partitions of it, is one transaction with inbox marks, effects and outbox; offsets are
committed after all of them (stack.md §2b). A slice that fails is halved until the record at fault stands alone; that
one is retried later or dead-lettered, and later records of its key wait in the database. Must never commit an offset
whose record is not in Postgres.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Final, Protocol

from chassis.clock import Clock, SystemClock
from chassis.db import inbox, parking
from chassis.db.connection import is_retryable, is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka import repeats
from chassis.kafka.failures import (
    DlqLimit,
    DlqLimitReached,
    FailedRecord,
    RetryPolicy,
    dead_letter_row,
    release_row,
    retry_row,
)
from chassis.kafka.records import H_CONSUMER, ConsumerRecord, Message, Origin, not_before_ms, origin_of
from chassis.kafka.rows import pack_headers, unpack_headers
from chassis.kafka.spans import end_spans, start_spans
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import LOOP_BATCH_SECONDS, LOOP_HALTED, LOOP_RECORDS, counter, gauge, histogram
from contracts.envelope import from_record
from contracts.errors import Invalid, PatchbayError
from contracts.topics import RELEASE_DELAY, RETRY_DELAYS, Topic

log = logger(__name__)

Handler = Callable[[UnitOfWork, Sequence[Message]], Awaitable[None]]
Partition = tuple[str, int]

# The same unit of work is run again at once this often after a deadlock or a serialization failure.
ATOMIC_TRIES: Final = 3
_PARTITION: Final = attrgetter("topic", "partition")
BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0


class Consumer(Protocol):
    """The part of the Kafka consumer that the loop steers; partitions are (topic, partition)."""

    async def commit(self, offsets: dict[Partition, int]) -> None:
        """Commit explicit offsets; must swallow and report a rebalance, never raise."""
        ...

    def seek(self, partition: Partition, offset: int) -> None:
        """Read `partition` from `offset` next; no effect if it was revoked."""
        ...

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching; revoked partitions are ignored."""
        ...

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch again; revoked partitions are ignored."""
        ...

    def assignment(self) -> set[Partition]:
        """Return the partitions that this member owns."""
        ...


@dataclass(frozen=True)
class LoopOptions:
    """Knobs of one loop. `max_records` bounds a batch; its partitions are dealt out to `width` transactions at a time.

    `dedupe_by` says what is handled once: a fact (CloudEvents source and id), or a record, for a consumer that wants
    every redelivery. Without `ordered` a key's later records do not wait for its retries.
    """

    max_records: int = 1000
    width: int = 2
    dedupe_by: repeats.DedupeBy = "fact"
    ordered: bool = True
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    max_dead_ratio: float = 0.1
    max_consecutive_dead: int = 100
    min_dead: int = 50


class BatchLoop:
    """One consumer group of one service: topics, a handler, and the service's database.

    The handler gets messages that are new to this consumer, in order per partition, inside an open unit of work. It
    must be free of I/O other than that unit of work, because it may run again for the same messages.
    """

    def __init__(
        self,
        consumer: str,
        topics: Sequence[Topic],
        handler: Handler,
        database: Database,
        *,
        options: LoopOptions | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.consumer = consumer
        self.options = options or LoopOptions()
        self.halted: str | None = None
        self.busy = asyncio.Lock()
        self.positions: dict[Partition, int] = {}
        self._topics = {topic.name: topic for topic in topics}
        self._handler = handler
        self._database = database
        self._clock = clock or SystemClock()
        self._failures_in_a_row = 0
        self._resumes: set[asyncio.Task[None]] = set()
        limits = self.options
        ratio, consecutive, dead = limits.max_dead_ratio, limits.max_consecutive_dead, limits.min_dead
        self._limit = DlqLimit(self._clock, max_ratio=ratio, max_consecutive=consecutive, min_dead=dead)

    def subscription(self) -> list[str]:
        """Return the names to subscribe to: the topics and their retry topics."""
        names = list(self._topics)
        for topic in self._topics.values():
            if topic.retries:
                names += [topic.retry(delay) for delay in (RELEASE_DELAY, *RETRY_DELAYS)]
        return names

    async def assigned(self, partitions: Collection[Partition]) -> None:
        """Take note of all partitions that this member has now; for loops that own something by partition."""

    async def handle(self, records: Sequence[ConsumerRecord], kafka: Consumer) -> None:
        """Bring one polled batch to its end: effects committed, failures routed, offsets committed.

        Never raises for a record or an outage: on an outage it rewinds, waits and returns, so that the next poll gets
        the same records. Holds `busy` meanwhile; a rebalance waits for it.
        """
        async with self.busy:
            started = self._clock.monotonic()
            due = self._postpone(records, kafka) if self.halted is None else []
            if self.halted is not None:
                self._rewind(records, kafka)
                kafka.pause(kafka.assignment())
                return
            # All slices end before anything is decided, so no transaction outlives the batch.
            slices = [self._settle_slice(part) for part in _slices(due, self.options.width)]
            failures = [one for one in await asyncio.gather(*slices, return_exceptions=True) if one is not None]
            limit = next((one for one in failures if isinstance(one, DlqLimitReached)), None)
            if limit is not None:
                self._halt(str(limit), records, kafka)
                return
            if failures:
                # An outage or a fault of ours: nothing is lost by reading the batch again.
                self._rewind(due, kafka)
                await self._back_off(failures[0])
                return
            self._failures_in_a_row = 0
            offsets = {partition: list(group)[-1].offset + 1 for partition, group in groupby(due, key=_PARTITION)}
            await kafka.commit(offsets)  # lint-skip: PB002 offsets of a consumer, not a transaction
            self.positions |= offsets
            histogram(LOOP_BATCH_SECONDS).labels(self.consumer).observe(self._clock.monotonic() - started)

    async def close(self) -> None:
        """Forget scheduled resumes; call after the consumer stopped."""
        for task in self._resumes:
            task.cancel()
        await asyncio.gather(*self._resumes, return_exceptions=True)

    # --- from records to messages -------------------------------------------------------------------------------------

    def _postpone(self, records: Sequence[ConsumerRecord], kafka: Consumer) -> list[ConsumerRecord]:
        """Return the records that are due; a retry partition with an early head is rewound and paused until then."""
        now_ms = int(self._clock.now().timestamp() * 1000)
        due: list[ConsumerRecord] = []
        for partition, group in groupby(records, key=_PARTITION):
            for record in group:
                wait_ms = not_before_ms(record) - now_ms if record.topic not in self._topics else 0
                if wait_ms > 0:
                    kafka.seek(partition, record.offset)
                    kafka.pause([partition])
                    task = asyncio.create_task(self._resume_after(wait_ms / 1000, partition, kafka))
                    self._resumes.add(task)
                    task.add_done_callback(self._resumes.discard)
                    break
                due.append(record)
        return due

    async def _resume_after(self, delay_s: float, partition: Partition, kafka: Consumer) -> None:
        await self._clock.sleep(delay_s)
        if self.halted is None:
            kafka.resume([partition])

    async def _settle_slice(self, records: Sequence[ConsumerRecord]) -> None:
        """Bring the records of some partitions to their end in one transaction, or in more when one is at fault."""
        good: list[Message] = []
        for record in records:
            if record.topic in self._topics:
                origin = Origin(record.topic, record.partition, record.offset)
            elif self._foreign(record):
                continue
            else:
                origin = origin_of(record)
            try:
                envelope = from_record(record.value, record.headers)
            except Invalid as error:
                await self._give_up(self._failed(record, origin), error)
                continue
            good.append(Message(envelope, record.key, origin, record.headers))
        await self._settle(good)

    def _foreign(self, record: ConsumerRecord) -> bool:
        """Tell whether a retry belongs to another consumer of the same source topic."""
        return dict(record.headers).get(H_CONSUMER) != self.consumer.encode()

    # --- effects ------------------------------------------------------------------------------------------------------

    async def _settle(self, messages: Sequence[Message]) -> None:
        """Take effect of `messages`, halving on failure until the one at fault stands alone; keeps their order."""
        if not messages:
            return
        try:
            await self._attempt(messages)
        except Exception as error:
            if is_unavailable(error):
                raise
            if len(messages) > 1:
                middle = len(messages) // 2
                await self._settle(messages[:middle])
                await self._settle(messages[middle:])
                return
            if not isinstance(error, Invalid):
                log.warning("message_failed", consumer=self.consumer, origin=messages[0].origin.mark, exc_info=error)
            only = messages[0]
            await self._give_up(
                FailedRecord(self.consumer, only.origin, only.key, only.envelope.data, only.headers), error
            )

    async def _attempt(self, messages: Sequence[Message]) -> None:
        for attempt in range(1, ATOMIC_TRIES + 1):
            start_spans(messages)
            try:
                async with self._database.unit_of_work() as uow:
                    counts = await self._apply(uow, messages)
            except Exception as error:
                if attempt == ATOMIC_TRIES or not is_retryable(error):
                    raise
            else:
                self._limit.succeeded(len(messages), (message.envelope.source for message in messages))
                self._count(messages[0].origin.topic, counts)
                return
            finally:
                end_spans(messages)

    async def _apply(self, uow: UnitOfWork, messages: Sequence[Message]) -> dict[str, int]:
        parked: dict[parking.Key, parking.ParkedKey] = {}
        if self.options.ordered:
            parked = await parking.lock_parked(uow.connection, self.consumer, _keys(messages))
        ready, followers = self._sort_by_turn(messages, parked)
        await parking.park_records(uow.connection, self.consumer, [_parked(m) for m in followers])
        fresh, conflicts = await repeats.take_new(uow, self.consumer, ready, self.options.dedupe_by)
        if conflicts:
            await repeats.bury(uow, self.consumer, conflicts, self._topics)
        if fresh:
            await self._handler(uow, fresh)
        for key, state in parked.items():
            if any(_key(m) == key and m.origin.offset == state.head_offset for m in ready):
                await self._release(uow, key)
        dropped = len(messages) - len(fresh) - len(conflicts) - len(followers)
        return {
            "applied": len(fresh),
            "duplicate": dropped,
            "conflict": len(conflicts),
            "parked": len(followers),
        }

    def _sort_by_turn(
        self, messages: Sequence[Message], parked: dict[parking.Key, parking.ParkedKey]
    ) -> tuple[list[Message], list[Message]]:
        """Split messages into those whose turn it is and those that must wait behind their key's head.

        A record straight from the source at or before the head was parked or routed already (its offset commit was
        lost); it is in neither list.
        """
        if not parked:
            return list(messages), []
        ready: list[Message] = []
        followers: list[Message] = []
        for message in messages:
            key = _key(message)
            state = parked.get(key) if key else None
            if state is None:
                ready.append(message)
            elif message.origin.offset > state.head_offset:
                followers.append(message)
            elif _is_retry(message):
                ready.append(message)
        return ready, followers

    async def _release(self, uow: UnitOfWork, key: parking.Key) -> None:
        for record in await parking.release(uow.connection, self.consumer, key):
            origin = Origin(record.topic, record.partition, record.offset)
            failed = FailedRecord(self.consumer, origin, record.key, record.value, unpack_headers(record.headers))
            uow.publish_raw(release_row(failed, self._topics[record.topic]))

    # --- failures -----------------------------------------------------------------------------------------------------

    def _failed(self, record: ConsumerRecord, origin: Origin) -> FailedRecord:
        return FailedRecord(self.consumer, origin, record.key, record.value, record.headers)

    async def _give_up(self, failed: FailedRecord, error: Exception) -> None:
        """Route one record to a delayed retry, parking its key, or to the dead-letter topic; once per attempt."""
        topic = self._topics[failed.origin.topic]
        delay = self.options.retry.next_delay(error, failed.origin.attempt) if topic.retries else None
        key = (topic.name, failed.key) if failed.key is not None and self.options.ordered else None
        async with self._database.unit_of_work() as uow:
            if not await inbox.claim(uow.connection, self.consumer, [failed.origin.mark]):
                return
            parked = await parking.lock_parked(uow.connection, self.consumer, [key] if key else [])
            if delay is not None:
                due_ms = int((self._clock.now().timestamp() + self.options.retry.delays_s[delay]) * 1000)
                uow.publish_raw(retry_row(failed, topic, delay, due_ms, error))
                if key:
                    await parking.park_key(uow.connection, self.consumer, key, failed.origin.offset)
            else:
                # Not before the claim: a dead letter counts once, however often the batch that halted us is read.
                self._limit.dead(failed.source)
                uow.publish_raw(dead_letter_row(failed, topic, error))
                if key and key in parked and parked[key].head_offset == failed.origin.offset:
                    await self._release(uow, key)
        self._count(topic.name, {"retried" if delay else "dead": 1})
        if delay is None:
            code = error.code if isinstance(error, PatchbayError) else type(error).__name__
            log.error("dead_letter", consumer=self.consumer, origin=failed.origin.mark, code=code)

    def _halt(self, reason: str, records: Sequence[ConsumerRecord], kafka: Consumer) -> None:
        """Stop consuming until a restart: an operator has to look. Nothing of this batch is committed."""
        self.halted = reason
        gauge(LOOP_HALTED).labels(self.consumer).set(1)
        log.critical("consumer_halted", consumer=self.consumer, reason=reason)
        self._rewind(records, kafka)
        kafka.pause(kafka.assignment())

    def _rewind(self, records: Sequence[ConsumerRecord], kafka: Consumer) -> None:
        for partition, group in groupby(records, key=_PARTITION):
            kafka.seek(partition, next(group).offset)

    async def _back_off(self, error: BaseException) -> None:
        self._failures_in_a_row += 1
        limit = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2**self._failures_in_a_row)
        log.warning("batch_rewound", consumer=self.consumer, wait_s_max=limit, exc_info=error)
        await self._clock.sleep(random.uniform(BACKOFF_MIN_S, limit))  # noqa: S311 (jitter, not a secret)

    # --- telemetry ----------------------------------------------------------------------------------------------------

    def _count(self, topic: str, outcomes: dict[str, int]) -> None:
        for outcome, count in outcomes.items():
            if count:
                counter(LOOP_RECORDS).labels(topic, outcome).inc(count)


def _slices(records: Sequence[ConsumerRecord], width: int) -> list[list[ConsumerRecord]]:
    """Deal whole partitions out to at most `width` slices of about equal size, keeping the order within each."""
    partitions = [list(group) for _, group in groupby(records, key=_PARTITION)]
    slices: list[list[ConsumerRecord]] = [[] for _ in range(min(width, len(partitions)))]
    for partition in sorted(partitions, key=len, reverse=True):
        min(slices, key=len).extend(partition)
    return slices


def _is_retry(message: Message) -> bool:
    return any(name == H_CONSUMER for name, _ in message.headers)


def _key(message: Message) -> parking.Key | None:
    return (message.origin.topic, message.key) if message.key is not None else None


def _keys(messages: Iterable[Message]) -> Iterator[parking.Key]:
    return (key for message in messages if (key := _key(message)) is not None)


def _parked(message: Message) -> parking.ParkedRecord:
    if message.key is None:
        raise ValueError("a record without a key has no order to keep")
    return parking.ParkedRecord(
        topic=message.origin.topic,
        key=message.key,
        partition=message.origin.partition,
        offset=message.origin.offset,
        value=message.envelope.data,
        headers=pack_headers(list(message.headers)),
    )
