"""What was spent of each bucket, for the health monitor's forecasts; and how many retries a provider may still get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from chassis.clock import Clock
from chassis.telemetry.metrics import gauge
from contracts.events.health import CallClass
from contracts.events.sync import QuotaUsage
from sync_worker.limiter.learning import Seen
from sync_worker.limiter.metrics import QUOTA_USED
from sync_worker.limiter.policies import CallPath

# A retry must be earned by clean calls; after a timeout it costs twice (sync-worker.md §4.1).
RETRY_TOKENS: Final = 500
RETRY_COST: Final = 5
RETRY_COST_AFTER_TIMEOUT: Final = 10
_CLEAN: Final = 1
# A worker may always make one retry in this time: the last retries of a provider that nobody calls any more would wait
# for clean calls that never come. Finagle's budgets have the same floor (its `minRetriesPerSec`).
FREE_RETRY_S: Final = 1.0


@dataclass(slots=True)
class _Bucket:
    """Use of one bucket since the last report, and what answers said of it last."""

    path: CallPath
    used: dict[CallClass, float] = field(default_factory=dict)
    throttled: int = 0
    seen: Seen | None = None
    seen_at: datetime | None = None
    estimate: float | None = None


class UsageBook:
    """Use by bucket of one worker. `collect` once a second, publish what it returns on `sync.quota-usage.v1`."""

    def __init__(self, clock: Clock, worker: str) -> None:
        self._clock = clock
        self._worker = worker
        self._buckets: dict[str, _Bucket] = {}
        self._since = clock.now()

    def spent(self, path: CallPath, call_class: CallClass, units: float) -> None:
        """Count units that calls of a class spent in every bucket of a path."""
        if units > 0:
            for _, name in path.names:
                used = self._of(path, name).used
                used[call_class] = used.get(call_class, 0.0) + units

    def throttled(self, path: CallPath, bucket: str) -> None:
        """Count a 429 of a bucket."""
        self._of(path, bucket).throttled += 1

    def saw(self, path: CallPath, bucket: str, seen: Seen) -> None:
        """Remember what an answer said of a bucket."""
        known = self._of(path, bucket)
        known.seen, known.seen_at = seen, self._clock.now()
        if seen.limit and seen.remaining is not None:
            gauge(QUOTA_USED).labels(path.provider, path.place(bucket)[0], path.mode).set(
                1 - seen.remaining / seen.limit
            )

    def collect(self) -> list[QuotaUsage]:
        """Return one report per bucket that was used, throttled or spoken of since the last time, and start anew."""
        until = self._clock.now()
        since, self._since = self._since, until
        buckets, self._buckets = self._buckets, {}
        return [self._report(name, one, since, until) for name, one in buckets.items()]

    def _report(self, name: str, one: _Bucket, since: datetime, until: datetime) -> QuotaUsage:
        seen, path = one.seen or Seen(), one.path
        kind, owner = path.place(name)
        window_s = seen.window_s
        if seen.limit is not None and window_s is None:
            window_s = next(bucket.only_window_s for bucket in path.buckets if bucket.name == name)
        reset_at = None
        if one.seen_at is not None and seen.reset_s is not None:
            reset_at = one.seen_at + timedelta(seconds=seen.reset_s)
        return QuotaUsage(
            provider=path.provider,
            mode=path.mode,
            bucket=kind,
            owner=owner,
            worker=self._worker,
            used=one.used,
            throttled=one.throttled,
            seen_limit=seen.limit,
            seen_remaining=seen.remaining,
            seen_reset_at=reset_at,
            seen_window_s=window_s or None,
            estimate=one.estimate,
            since=since,
            until=until,
        )

    def _of(self, path: CallPath, name: str) -> _Bucket:
        return self._buckets.setdefault(name, _Bucket(path))


class RetryBudgets:
    """Retry tokens by provider and mode (`CallPath.scope`), shared by all workers.

    What each earns and spends rides on its leases. `monotonic` gives seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._seen: dict[str, int] = {}
        self._delta: dict[str, int] = {}
        self._free_at: dict[str, float] = {}

    def may_retry(self, scope: str, *, after_timeout: bool = False) -> bool:
        """Take the tokens of one retry; False when there are too few and this second's free one was made."""
        cost = RETRY_COST_AFTER_TIMEOUT if after_timeout else RETRY_COST
        if self._tokens(scope) < cost:
            now = self._monotonic()
            if now < self._free_at.get(scope, 0.0):
                return False
            self._free_at[scope] = now + FREE_RETRY_S
            return True
        self._delta[scope] = self._delta.get(scope, 0) - cost
        return True

    def clean(self, scope: str) -> None:
        """Count a call that succeeded at once."""
        if self._tokens(scope) < RETRY_TOKENS:
            self._delta[scope] = self._delta.get(scope, 0) + _CLEAN

    def take_delta(self, scope: str) -> int:
        """Return what the store has not heard of, and expect it to."""
        delta = self._delta.pop(scope, 0)
        self._seen[scope] = max(0, min(RETRY_TOKENS, self._seen.get(scope, RETRY_TOKENS) + delta))
        return delta

    def saw(self, scope: str, tokens: int) -> None:
        """Take the balance that the store told."""
        self._seen[scope] = tokens

    def _tokens(self, scope: str) -> int:
        return self._seen.get(scope, RETRY_TOKENS) + self._delta.get(scope, 0)
