"""What becomes of a record that failed: which retry delay, or the dead-letter topic, or a stopped consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from chassis.clock import Clock
from chassis.kafka.records import (
    H_ATTEMPT,
    H_CONSUMER,
    H_ERROR,
    H_ERROR_CODE,
    H_NOT_BEFORE,
    H_OFFSET,
    H_PARTITION,
    H_TOPIC,
    Origin,
    original_headers,
)
from chassis.kafka.rows import Row, row
from contracts.envelope import Headers
from contracts.errors import Invalid, PatchbayError, Terminal, Transient
from contracts.topics import RELEASE_DELAY, RETRY_DELAYS, Topic

MAX_ERROR_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after which delays, a record is tried again.

    A `Transient` failure is the world's, so it goes through all delays and then stays in the last one; anything
    unexpected is probably ours and gets the first three (10 s, 1 min, 10 min), enough to outlive a deploy.
    """

    delays_s: Mapping[str, float] = field(default_factory=lambda: dict(RETRY_DELAYS))
    # 10 s + 1 min + 10 min + 12 x 1 h: half a day, the longest outage that nobody should have to repair by hand.
    transient_attempts: int = 15
    unexpected_attempts: int = 3

    def next_delay(self, error: Exception, attempt: int) -> str | None:
        """Return the delay class for a record that failed its `attempt`-th retry, or None for the dead letter."""
        if isinstance(error, Invalid | Terminal):
            return None
        limit = self.transient_attempts if isinstance(error, Transient) else self.unexpected_attempts
        if attempt >= limit:
            return None
        names = list(self.delays_s)
        index = min(attempt, len(names) - 1)
        if isinstance(error, Transient) and error.retry_after_s is not None:
            wanted = error.retry_after_s
            index = max(
                index, next((i for i, name in enumerate(names) if self.delays_s[name] >= wanted), len(names) - 1)
            )
        return names[index]


class DlqLimitReached(Exception):  # noqa: N818 (an order to stop, not a fault)
    """Too large a share of records would be dead-lettered: one bad deploy must not empty a topic into its DLQ."""


class DlqLimit:
    """Stops the consumer when dead letters are no longer exceptions (after arroyo's `DlqLimit`).

    Trips at `max_consecutive` dead letters in a row, or when they are more than `max_ratio` of the records of the last
    minute and at least `min_dead`; in either case only if most of the sources that were heard of in that minute have
    some. What one source sends must not stop the work of all others, and a bad deploy spares none.
    """

    WINDOW_S: Final = 60.0

    def __init__(self, clock: Clock, *, max_ratio: float = 0.1, max_consecutive: int = 100, min_dead: int = 50) -> None:
        self._clock = clock
        self._max_ratio = max_ratio
        self._max_consecutive = max_consecutive
        self._min_dead = min_dead
        self._consecutive = 0
        self._dead = 0
        self._total = 0
        self._window: deque[tuple[float, int, int]] = deque()
        # When each source was last heard of, and last had a dead letter.
        self._heard: dict[str, float] = {}
        self._spoilt: dict[str, float] = {}

    def succeeded(self, count: int, sources: Iterable[str]) -> None:
        """Note records that took effect, and whose they were."""
        if count:
            self._consecutive = 0
            self._note(count, 0)
            self._heard.update(dict.fromkeys(sources, self._clock.monotonic()))

    def dead(self, source: str) -> None:
        """Note a record about to be dead-lettered; raises `DlqLimitReached` instead when that is one too many."""
        self._consecutive += 1
        self._note(1, 1)
        self._heard[source] = self._spoilt[source] = self._clock.monotonic()
        too_many = self._dead >= self._min_dead and self._dead > self._max_ratio * self._total
        if (self._consecutive > self._max_consecutive or too_many) and self._most_are_spoilt():
            raise DlqLimitReached(f"{self._dead} dead letters of {self._total} records in {self.WINDOW_S:.0f} s")

    def _most_are_spoilt(self) -> bool:
        oldest = self._clock.monotonic() - self.WINDOW_S
        self._heard = {source: at for source, at in self._heard.items() if at >= oldest}
        self._spoilt = {source: at for source, at in self._spoilt.items() if at >= oldest}
        return 2 * len(self._spoilt) > len(self._heard)

    def _note(self, total: int, dead: int) -> None:
        now = self._clock.monotonic()
        self._window.append((now, total, dead))
        self._total += total
        self._dead += dead
        while self._window and self._window[0][0] < now - self.WINDOW_S:
            _, old_total, old_dead = self._window.popleft()
            self._total -= old_total
            self._dead -= old_dead


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """A record on its way out of the loop: its bytes, its source position and who could not handle it."""

    consumer: str
    origin: Origin
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]

    @property
    def source(self) -> str:
        """Whose record it is, as its CloudEvents header says; empty where it says nothing."""
        return next((value.decode("utf-8", "replace") for name, value in self.headers if name == "ce_source"), "")


def retry_row(failed: FailedRecord, topic: Topic, delay: str, due_ms: int, error: Exception) -> Row:
    """Return the message for the delayed-retry topic."""
    headers = _failure_headers(failed, failed.origin.attempt + 1, error)
    headers.append((H_NOT_BEFORE, str(due_ms).encode()))
    return row(topic.retry(delay), failed.key, failed.value, headers)


def release_row(released: FailedRecord, topic: Topic) -> Row:
    """Return the message that brings a parked record back, due at once."""
    headers = [*original_headers(released.headers), *_position_headers(released, released.origin.attempt)]
    headers.append((H_NOT_BEFORE, b"0"))
    return row(topic.retry(RELEASE_DELAY), released.key, released.value, headers)


def dead_letter_row(failed: FailedRecord, topic: Topic, error: Exception) -> Row:
    """Return the message for the dead-letter topic: the original bytes, its position, and why."""
    return row(topic.dlq, failed.key, failed.value, _failure_headers(failed, failed.origin.attempt, error))


def _position_headers(failed: FailedRecord, attempt: int) -> Headers:
    return [
        (H_CONSUMER, failed.consumer.encode()),
        (H_TOPIC, failed.origin.topic.encode()),
        (H_PARTITION, str(failed.origin.partition).encode()),
        (H_OFFSET, str(failed.origin.offset).encode()),
        (H_ATTEMPT, str(attempt).encode()),
    ]


def _failure_headers(failed: FailedRecord, attempt: int, error: Exception) -> Headers:
    if isinstance(error, PatchbayError):
        code, detail = error.code, error.detail
    else:
        # An unexpected exception's text may quote a payload, so only its type travels; the log has the traceback.
        code, detail = "unexpected", type(error).__name__
    return [
        *original_headers(failed.headers),
        *_position_headers(failed, attempt),
        (H_ERROR_CODE, code.encode()),
        (H_ERROR, detail[:MAX_ERROR_CHARS].encode()),
    ]
