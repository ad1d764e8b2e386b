"""Dead letters of the whole platform: kept where people can find them, repaired, and sent back to where they came from.

A dead letter need not be a CloudEvent, so the loop here stores bytes and headers as they are. Must never change a
record on its way back, but for a value that an operator gave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.loop import BatchLoop
from chassis.kafka.records import (
    H_CONSUMER,
    H_ERROR,
    H_ERROR_CODE,
    H_OFFSET,
    H_PARTITION,
    H_TOPIC,
    ConsumerRecord,
    Message,
    original_headers,
)
from chassis.kafka.rows import Row, pack_headers, row, unpack_headers
from chassis.telemetry.traces import parse_traceparent
from contracts.errors import Terminal
from contracts.ids import uuid7
from contracts.topics import TOPICS
from webhook_gateway.models import DeadLetter
from webhook_gateway.repository import deadletters, issues

CONSUMER: Final = "webhook-gateway-dead-letters"
RETRIED: Final = tuple(topic for topic in TOPICS if topic.retries)
# A 64-bit column holds every number of so many digits.
_MAX_DIGITS: Final = 18
_NAMES: Final = frozenset(topic.name for topic in TOPICS)
# A consumer group is called after its service: `sync-worker-deliveries`.
_SERVICES: Final = tuple(sorted({reader for topic in TOPICS for reader in topic.readers}, key=len, reverse=True))


class DeadLetterLoop(BatchLoop):
    """Consumes every dead-letter topic of the platform; a batch is one transaction per slice."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(CONSUMER, RETRIED, _no_messages, database, clock=clock)

    def subscription(self) -> list[str]:
        """Return the dead-letter topics."""
        return [topic.dlq for topic in RETRIED]

    async def _settle_slice(self, records: Sequence[ConsumerRecord]) -> None:
        async with self._database.unit_of_work() as uow:
            for record in records:
                await store(uow, record, self._clock)


async def store(uow: UnitOfWork, record: ConsumerRecord, clock: Clock) -> None:
    """Keep one dead letter and open an issue about it; a record that was read before changes nothing."""
    letter = _letter(record, clock)
    if await deadletters.add(uow.connection, letter):
        report = issues.Report(
            kind="dead_letter",
            subject=subject_of(letter),
            at=letter.last_seen,
            tenant=letter.tenant,
            detail={"consumer": letter.consumer, "error_code": letter.error_code, "topic": letter.origin_topic},
        )
        await issues.report(uow.connection, [report])


def subject_of(letter: DeadLetter) -> str:
    """Return what the issue of a dead letter is about: one consumer's failures of one kind."""
    return f"{letter.consumer}:{letter.error_code}"


def replay_row(letter: DeadLetter, value: bytes | None = None) -> Row:
    """Return the record that goes back to its topic, with the same key and envelope, and another value if one is given.

    Raises `Terminal` (`unknown_topic`) for a record whose topic Patchbay does not know.
    """
    if letter.origin_topic not in _NAMES:
        raise Terminal("unknown_topic", "the topic of this dead letter is not one of Patchbay's")
    headers = original_headers(unpack_headers(letter.headers))
    return row(letter.origin_topic, letter.key, letter.value if value is None else value, headers)


def fingerprint(value: bytes | None) -> str:
    """Return the SHA-256 of a value for the audit log; empty for a tombstone."""
    return "" if value is None else hashlib.sha256(value).hexdigest()


def envelope_facts(letter: DeadLetter) -> dict[str, str]:
    """Return the record's own headers as text, for people."""
    return {name: value.decode(errors="replace") for name, value in original_headers(unpack_headers(letter.headers))}


def _letter(record: ConsumerRecord, clock: Clock) -> DeadLetter:
    headers = {name: (value or b"") for name, value in record.headers}
    text = _Texts(headers)
    consumer, now = text[H_CONSUMER], clock.now()
    trace = parse_traceparent(text["traceparent"])
    return DeadLetter(
        id=uuid7(),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        origin_topic=text[H_TOPIC] or record.topic.removesuffix(".dlq"),
        origin_partition=text.number(H_PARTITION),
        origin_offset=text.number(H_OFFSET),
        service=next((name for name in _SERVICES if consumer.startswith(name)), consumer),
        consumer=consumer,
        tenant=text["ce_tenant"],
        message_id=text["ce_id"],
        message_type=text["ce_type"],
        trace_id=f"{trace.trace_id:032x}" if trace else "",
        error_code=text[H_ERROR_CODE],
        error=text[H_ERROR],
        attempts=1,
        key=record.key,
        value=record.value,
        headers=pack_headers([(name, value or b"") for name, value in record.headers]),
        state="open",
        first_seen=now,
        last_seen=now,
        settled_at=None,
        settled_by="",
        note="",
    )


class _Texts:
    """Headers as text that PostgreSQL can hold; what is absent is empty."""

    def __init__(self, headers: Mapping[str, bytes]) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        return self._headers.get(name, b"").decode(errors="replace").replace("\0", "\ufffd")

    def number(self, name: str) -> int:
        """Return a header as a number that the columns hold; 0 for anything else."""
        text = self[name]
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else 0


async def _no_messages(_uow: UnitOfWork, _messages: Sequence[Message]) -> None:
    """Stand in for the handler that this loop never calls: it stores records, not messages."""
