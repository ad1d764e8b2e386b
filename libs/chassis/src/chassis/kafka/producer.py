"""The one way to write to Kafka: idempotent, acknowledged by all replicas, keyed as librdkafka does."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, OutOfOrderSequenceNumber, ProducerFenced, UnknownProducerId

from chassis.kafka.rows import Row, unpack_headers
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import PRODUCER_REBUILDS, counter
from contracts.envelope import Envelope, Headers
from contracts.errors import Transient
from contracts.topics import MAX_MESSAGE_BYTES, Topic

log = logger(__name__)

# The default of 40 s hides outages; callers with a tighter deadline bound their own wait (stack.md §2c).
REQUEST_TIMEOUT_MS: Final = 15_000
MAX_BATCH_BYTES: Final = 131_072
MAX_REQUEST_BYTES: Final = 2 * MAX_MESSAGE_BYTES
RELAY_LINGER_MS: Final = 5
# After one of these the idempotent sequence is lost until the client is replaced (aiokafka#1017).
_WEDGED: Final = (OutOfOrderSequenceNumber, UnknownProducerId, ProducerFenced)
_REBUILD_RETRY_S: Final = 1.0


def partition_for(key: bytes, partitions: int) -> int:
    """Return the partition of a key as librdkafka's default partitioner does (docs/decisions/0006).

    CRC-32 runs in C. The Java client's murmur2 does not in Python: 10 µs for 36 bytes, a fifth of a webhook's CPU.
    """
    return crc32(key) % partitions


def _partitioner(key: bytes | None, all_partitions: Sequence[int], available: Sequence[int]) -> int:
    if key is None:
        return (available or all_partitions)[0]
    return all_partitions[partition_for(key, len(all_partitions))]


class Publisher:
    """An idempotent producer that replaces itself when the client wedges. Start it before use."""

    def __init__(self, bootstrap: str, *, linger_ms: int = RELAY_LINGER_MS, compression: str | None = "lz4") -> None:
        self._options: dict[str, Any] = {
            "bootstrap_servers": bootstrap,
            "acks": "all",
            "enable_idempotence": True,
            "linger_ms": linger_ms,
            "max_batch_size": MAX_BATCH_BYTES,
            "max_request_size": MAX_REQUEST_BYTES,
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "compression_type": compression,
            "partitioner": _partitioner,
        }
        self._producer: AIOKafkaProducer | None = None
        self._rebuilding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect; raises `KafkaError` when no broker answers, and may be tried again."""
        producer = AIOKafkaProducer(**self._options)
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Flush and disconnect."""
        if self._rebuilding is not None:
            self._rebuilding.cancel()
        if self._producer is not None:
            await self._producer.stop()
            self._producer = None

    async def send(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Headers, *, timeout_s: float
    ) -> tuple[int, int]:
        """Write one record within `timeout_s`; see `write`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self.write(topic, key, value, headers)
        except TimeoutError as error:
            raise Transient("broker_unavailable", "no acknowledgement in time") from error

    async def write(self, topic: str, key: bytes | None, value: bytes | None, headers: Headers) -> tuple[int, int]:
        """Write one record and return its (partition, offset) once all replicas have it; the caller bounds the wait.

        Raises `Transient` (`broker_unavailable`) on a broker error. A record whose wait was cancelled or failed may
        still land: readers must absorb a duplicate.
        """
        producer = self._running()
        try:
            # Cancelling a record's future, as a deadline does, leaves the record in its batch: the client skips
            # futures that are done when the batch is acknowledged.
            metadata = await (await producer.send(topic, value=value, key=key, headers=headers))
        except _WEDGED as error:
            self._rebuild(producer)
            raise Transient("broker_unavailable", type(error).__name__) from error
        except KafkaError as error:
            raise Transient("broker_unavailable", type(error).__name__) from error
        return metadata.partition, metadata.offset

    async def publish(self, topic: Topic, key: str, envelope: Envelope, *, timeout_s: float = 5.0) -> tuple[int, int]:
        """Write one envelope; see `send`."""
        return await self.send(topic.name, key.encode(), envelope.data, envelope.headers(), timeout_s=timeout_s)

    async def send_rows(self, rows: Sequence[Row]) -> None:
        """Write outbox rows in order per partition and return when all are acknowledged; raises `KafkaError`.

        Rows of one partition go as ready-made batches: 5-10 times the rate of record by record (stack.md §3).
        """
        producer = self._running()
        try:
            by_partition: dict[tuple[str, int], list[Row]] = defaultdict(list)
            counts = {topic: len(await producer.partitions_for(topic)) for topic in {row.topic for row in rows}}
            for row in rows:
                partition = partition_for(row.key, counts[row.topic]) if row.key is not None else 0
                by_partition[row.topic, partition].append(row)
            sends = [self._send_partition(producer, *target, group) for target, group in by_partition.items()]
            await asyncio.gather(*(future for futures in await asyncio.gather(*sends) for future in futures))
        except _WEDGED:
            self._rebuild(producer)
            raise

    async def _send_partition(
        self, producer: AIOKafkaProducer, topic: str, partition: int, rows: Sequence[Row]
    ) -> list[asyncio.Future[Any]]:
        futures: list[asyncio.Future[Any]] = []
        batch = producer.create_batch()
        for row in rows:
            headers = unpack_headers(row.headers)
            if batch.append(key=row.key, value=row.value, timestamp=None, headers=headers) is None:
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                if batch.append(key=row.key, value=row.value, timestamp=None, headers=headers) is None:
                    raise KafkaError(f"a record for {topic} is larger than a batch")
        futures.append(await producer.send_batch(batch, topic, partition=partition))
        return futures

    def _running(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise Transient("broker_unavailable", "the producer is not connected")
        return self._producer

    def _rebuild(self, wedged: AIOKafkaProducer) -> None:
        """Replace a producer in the background; until that is done, whoever writes is told to come again."""
        if self._producer is not wedged:
            return
        log.error("producer_rebuilt")
        counter(PRODUCER_REBUILDS).inc()
        self._producer = None
        self._rebuilding = asyncio.create_task(self._replace(wedged))

    async def _replace(self, wedged: AIOKafkaProducer) -> None:
        stopping = asyncio.create_task(_stop_quietly(wedged))
        while self._producer is None:
            try:
                await self.start()
            except (KafkaError, OSError) as error:
                log.warning("producer_not_rebuilt", error=type(error).__name__)
                await asyncio.sleep(_REBUILD_RETRY_S)
        await stopping


async def _stop_quietly(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
            await producer.stop()
    except (KafkaError, TimeoutError, OSError) as error:
        log.warning("wedged_producer_not_stopped", error=type(error).__name__)
