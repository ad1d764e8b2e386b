"""FastStream as the shell around the batch loops: connections, subscriptions, rebalances, shutdown.

Each loop gets raw bytes (one undecodable record must not hide its batch) and commits explicit offsets itself
(stack.md §2); FastStream's acknowledgement policies are all off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import FakeConsumer

from chassis.clock import Clock, SystemClock
from chassis.kafka.loop import BatchLoop, Partition
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import LOOP_LAG, gauge

log = logger(__name__)

# A session survives a GC or deploy pause and still notices a hang (stack.md §2c).
SESSION_TIMEOUT_MS: Final = 30_000
HEARTBEAT_MS: Final = 3_000
MAX_POLL_INTERVAL_MS: Final = 120_000
FETCH_MAX_WAIT_MS: Final = 50
# FastStream sleeps this long after an empty poll as well, so it is the idle latency.
POLL_TIMEOUT_MS: Final = 20
# A healthy consumer's fetches return at least every FETCH_MAX_WAIT_MS; aiokafka#1037 is a consumer that just stops.
STALLED_AFTER_S: Final = 60.0


class _SteeredConsumer:
    """Adapts aiokafka's consumer to what the loop steers; every call tolerates a partition revoked meanwhile."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def commit(self, offsets: dict[Partition, int]) -> None:
        """Commit; on a rebalance the next owner repeats the batch and the inbox absorbs it."""
        owned = self.assignment()
        mine = {TopicPartition(*partition): offset for partition, offset in offsets.items() if partition in owned}
        if not mine:
            return
        try:
            await self._consumer.commit(mine)  # lint-skip: PB002 offsets of a consumer, not a transaction
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            log.warning("offsets_not_committed", error=type(error).__name__, partitions=len(mine))

    def seek(self, partition: Partition, offset: int) -> None:
        """Read from `offset` next."""
        if partition in self.assignment():
            self._consumer.seek(TopicPartition(*partition), offset)

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Stop fetching."""
        self._consumer.pause(*(TopicPartition(*p) for p in set(partitions) & self.assignment()))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch again."""
        self._consumer.resume(*(TopicPartition(*p) for p in set(partitions) & self.assignment()))

    def assignment(self) -> set[Partition]:
        """Return what this member owns."""
        return {(partition.topic, partition.partition) for partition in self._consumer.assignment()}


class _WaitForBatch(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """Lets the batch in flight finish before its partitions go to another member."""

    def __init__(self, loop: BatchLoop) -> None:
        self._loop = loop

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Wait for the loop."""
        async with self._loop.busy:
            log.info("partitions_revoked", consumer=self._loop.consumer, partitions=len(revoked))

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note the new share, and tell the loop of it."""
        log.info("partitions_assigned", consumer=self._loop.consumer, partitions=len(assigned))
        await self._loop.assigned({(one.topic, one.partition) for one in assigned})


class LoopRunner:
    """Runs batch loops on one FastStream broker. `start` returns once the consumers are connected."""

    def __init__(
        self,
        bootstrap: str,
        *,
        instance: str | None = None,
        drain_timeout_s: float = 25.0,
        clock: Clock | None = None,
    ) -> None:
        self._broker = KafkaBroker(
            bootstrap, consumer_only=True, graceful_timeout=drain_timeout_s, logger=None, allow_auto_create_topics=False
        )
        self._instance = instance
        self._clock = clock or SystemClock()
        self._loops: list[BatchLoop] = []
        self._subscribers: list[Any] = []

    @property
    def loops(self) -> list[BatchLoop]:
        """The loops that this runner serves."""
        return self._loops

    def add(self, loop: BatchLoop) -> None:
        """Subscribe a loop; call before `start`."""
        subscriber = self._broker.subscriber(
            *loop.subscription(),
            group_id=loop.consumer,
            group_instance_id=_static_id(loop, self._instance),
            batch=True,
            max_records=loop.options.max_records,
            batch_timeout_ms=POLL_TIMEOUT_MS,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            isolation_level="read_committed",
            listener=_WaitForBatch(loop),
            parser=_untouched,
            decoder=_nothing,
        )

        async def consume(_body: None, message: KafkaMessage) -> None:
            await loop.handle(message.raw_message, _SteeredConsumer(subscriber.consumer))

        subscriber(consume)
        self._loops.append(loop)
        self._subscribers.append(subscriber)

    async def start(self) -> None:
        """Connect and begin to consume; raises `KafkaError` when no broker answers, and may be tried again."""
        try:
            await self._broker.start()
        except BaseException:
            await self._broker.stop()
            raise

    async def stop(self) -> None:
        """Finish the batches in flight, leave the groups and disconnect."""
        for loop in self._loops:
            async with loop.busy:
                pass
        await self._broker.stop()
        for loop in self._loops:
            await loop.close()

    def halted(self) -> list[str]:
        """Return the consumers that their dead-letter limit stopped, with the reason."""
        return [f"{loop.consumer}: halted, {loop.halted}" for loop in self._loops if loop.halted is not None]

    def stuck(self) -> list[str]:
        """Return the consumers that no longer consume and will not recover by themselves: restart the process."""
        found: list[str] = []
        for loop, subscriber in zip(self._loops, self._subscribers, strict=True):
            consumer: AIOKafkaConsumer | None = subscriber.consumer
            if consumer is None:
                found.append(f"{loop.consumer}: not connected")
            elif error := _coordinator_error(consumer):
                found.append(f"{loop.consumer}: group coordination ended, {error}")
            elif _stalled(consumer, self._clock.now()):
                found.append(f"{loop.consumer}: no poll for {STALLED_AFTER_S:.0f} s")
        return found

    def measure_lag(self) -> None:
        """Export how far behind the broker this member is, per topic, for the partitions that it owns."""
        lags: dict[str, int] = {}
        for loop, subscriber in zip(self._loops, self._subscribers, strict=True):
            consumer: AIOKafkaConsumer | None = subscriber.consumer
            if consumer is None:
                continue
            for partition in consumer.assignment():
                done = loop.positions.get((partition.topic, partition.partition))
                high = consumer.highwater(partition)
                if done is not None and high is not None:
                    lags[partition.topic] = lags.get(partition.topic, 0) + max(0, high - done)
        for topic, lag in lags.items():
            gauge(LOOP_LAG).labels(topic).set(lag)


def _static_id(loop: BatchLoop, instance: str | None) -> str | None:
    """Return the static member id: a restart of the same replica within the session timeout moves no partition.

    The subscription is part of it, because a broker hands a known static member its old assignment, and aiokafka's
    coordinator dies of a topic that it did not subscribe to: a deploy that changes topics must be a new member.
    """
    if not instance:
        return None
    topics = hashlib.sha256("\n".join(sorted(loop.subscription())).encode()).hexdigest()[:8]
    return f"{loop.consumer}-{instance}-{topics}"


def _coordinator_error(consumer: AIOKafkaConsumer) -> str | None:
    """Return why the group coordination ended, if it did: the consumer would stay silent for ever."""
    try:
        consumer._coordinator.check_errors()  # noqa: SLF001 (no public way to ask)
    except KafkaError as error:
        return type(error).__name__
    return None


async def _untouched(records: Any) -> KafkaMessage:
    # FastStream's own parser decodes every header as UTF-8; one record that is not would lose its whole batch.
    return KafkaMessage(body=b"", headers={}, raw_message=records, consumer=FakeConsumer())


async def _nothing(_message: KafkaMessage) -> None:
    """Leave the bytes alone: the loop decodes each record by itself."""


def _stalled(consumer: AIOKafkaConsumer, now: datetime) -> bool:
    polled = [consumer.last_poll_timestamp(p) for p in consumer.assignment() - consumer.paused()]
    newest = max((at for at in polled if at), default=0)
    return bool(newest) and now.timestamp() - newest / 1000 > STALLED_AFTER_S
