"""A consumed record and where it first came from, whether it arrives directly or through a retry topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from opentelemetry.trace import Span

from chassis.telemetry.traces import traceparent
from contracts.envelope import Envelope, Headers

# Headers that the loop adds to retries and dead letters; the original ones stay beside them.
H_CONSUMER: Final = "x-consumer"
H_TOPIC: Final = "x-topic"
H_PARTITION: Final = "x-partition"
H_OFFSET: Final = "x-offset"
H_ATTEMPT: Final = "x-attempt"
H_NOT_BEFORE: Final = "x-not-before"
H_ERROR_CODE: Final = "x-error-code"
H_ERROR: Final = "x-error"
FAILURE_HEADERS: Final = frozenset(
    {H_CONSUMER, H_TOPIC, H_PARTITION, H_OFFSET, H_ATTEMPT, H_NOT_BEFORE, H_ERROR_CODE, H_ERROR}
)


class ConsumerRecord(Protocol):
    """The part of the client's record that the loop uses."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Origin(NamedTuple):
    """The source position of a record, and how often it has failed: 0 for one that comes straight from its topic."""

    topic: str
    partition: int
    offset: int
    attempt: int = 0

    @property
    def position(self) -> str:
        """The source position as text."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def mark(self) -> str:
        """The inbox id under which routing this attempt away is remembered."""
        return f"@{self.position}#{self.attempt}"


@dataclass(slots=True)
class Message:
    """A decoded record as a handler gets it."""

    envelope: Envelope
    key: bytes | None
    origin: Origin
    headers: Sequence[tuple[str, bytes]] = field(repr=False)
    span: Span | None = field(default=None, repr=False)

    @property
    def text_key(self) -> str:
        """The record key as text; empty when there is none."""
        return (self.key or b"").decode(errors="replace")

    @property
    def trace(self) -> str | None:
        """The `traceparent` for whatever this message causes."""
        return traceparent(self.span) if self.span is not None else self.envelope.traceparent


def origin_of(record: ConsumerRecord) -> Origin:
    """Return where a record of a retry topic first stood, from the headers that the loop wrote."""
    headers = dict(record.headers)
    return Origin(
        topic=headers[H_TOPIC].decode(),
        partition=int(headers[H_PARTITION]),
        offset=int(headers[H_OFFSET]),
        attempt=int(headers[H_ATTEMPT]),
    )


def not_before_ms(record: ConsumerRecord) -> int:
    """Return when a retry is due, in Unix milliseconds; 0 for any other record."""
    return next((int(value) for name, value in record.headers if name == H_NOT_BEFORE), 0)


def original_headers(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """Return the headers without the loop's own."""
    return [(name, value) for name, value in headers if name not in FAILURE_HEADERS]
