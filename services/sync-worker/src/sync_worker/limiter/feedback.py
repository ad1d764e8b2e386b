"""What an answer teaches the limiter: limits from headers, blocks from 429s and empty quotas, tokens for retries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chassis.clock import Clock
from contracts.events.sync import Outcome
from sync_worker.limiter.learning import LimitEstimate, Seen, parse
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.phases import WindowPhase
from sync_worker.limiter.policies import CallPath, PolicyBook
from sync_worker.limiter.usage import RetryBudgets, UsageBook

# A header that asks for more is taken for a mistake; the quota of a day may well ask for this much.
MAX_BLOCK_S: Final = 86_400.0


class Feedback:
    """Reads every answer of a provider once. Call `answered` after each call, whatever its outcome."""

    def __init__(
        self, limiter: Limiter, book: PolicyBook, usage: UsageBook, retries: RetryBudgets, clock: Clock
    ) -> None:
        self._limiter = limiter
        self._book = book
        self._usage = usage
        self._retries = retries
        self._clock = clock
        self._estimates: dict[tuple[str, float], LimitEstimate] = {}
        self._phases: dict[tuple[str, float], WindowPhase] = {}

    def answered(
        self, path: CallPath, outcome: Outcome, headers: Mapping[str, str], sent_at: float, *, scope: str = ""
    ) -> Seen:
        """Learn from one answer that was asked for at `sent_at` (monotonic seconds), and return what it said.

        `scope` is the kind of bucket that a 429 names (`app`, `account`, `endpoint:<class>`, `address`); without it the
        narrowest one is blocked. Never blocks, never raises.
        """
        seen = parse(headers, self._clock.now())
        bucket = path.named(scope) if scope else path.narrowest
        if outcome == "success":
            self._retries.clean(path.scope)
        if outcome == "throttled":
            self._usage.throttled(path, bucket)
            wait_s = seen.retry_after_s
            if wait_s is None and seen.remaining == 0:
                wait_s = seen.reset_s
            self._limiter.throttled(path, bucket, min(wait_s or 0.0, MAX_BLOCK_S), sent_at)
        elif seen.remaining == 0 and seen.reset_s:
            self._limiter.throttled(path, bucket, min(seen.reset_s, MAX_BLOCK_S), None)
        if seen.limit is not None or seen.remaining is not None:
            self._usage.saw(path, bucket, seen)
            self._learn(path, bucket, seen, sent_at)
        return seen

    def _learn(self, path: CallPath, name: str, seen: Seen, sent_at: float) -> None:
        bucket = next(one for one in path.buckets if one.name == name)
        seconds = seen.window_s if seen.window_s is not None else bucket.only_window_s
        if not seen.limit or not seconds:
            return
        estimate = self._estimates.setdefault((name, seconds), LimitEstimate())
        now = self._clock.monotonic()
        self._book.learn(path.provider, name, seconds, estimate.observe(seen.limit, int(now / seconds)))
        if any(window.shape == "fixed" and window.seconds == seconds for window in bucket.windows):
            phase = self._phases.setdefault((name, seconds), WindowPhase(seconds))
            turn = phase.observe(seen.limit, seen.remaining, seen.reset_s, sent_at, now)
            if turn is not None:
                self._limiter.turned(path, name, seconds, turn)
