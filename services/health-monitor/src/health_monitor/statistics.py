"""Call statistics by route and minute; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, get_args

from contracts.events.sync import CallsObserved, Outcome
from contracts.modes import Mode

OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)


class RouteKey(NamedTuple):
    """What a route is: one provider for one capability, in one mode."""

    provider: str
    capability: str
    mode: Mode = "live"


@dataclass(slots=True)
class Bucket:
    """Calls of one route in one minute."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    latency_ms_sum: float = 0.0
    latency_ms_max: float = 0.0


Buckets = dict[tuple[RouteKey, datetime], Bucket]


def key_of(calls: CallsObserved) -> RouteKey:
    """Return the route that a report of calls is about."""
    return RouteKey(calls.provider, calls.capability, calls.mode)


def merged(into: Buckets, more: Buckets) -> None:
    """Add buckets to others."""
    for key, bucket in more.items():
        known = into.setdefault(key, Bucket())
        for outcome, count in bucket.counts.items():
            known.counts[outcome] += count
        known.latency_ms_sum += bucket.latency_ms_sum
        known.latency_ms_max = max(known.latency_ms_max, bucket.latency_ms_max)


def by_minute(observed: Iterable[CallsObserved]) -> Buckets:
    """Sum calls up by route and the minute in which the worker saw them."""
    buckets: Buckets = {}
    for calls in observed:
        minute = calls.observed_at.replace(second=0, microsecond=0)
        bucket = buckets.setdefault((key_of(calls), minute), Bucket())
        # A call that failed by age is counted when it ends.
        for run in (run for run in calls.runs if run.kind == "final"):
            bucket.counts[run.outcome] += run.count
            bucket.latency_ms_sum += run.latency_ms_sum
            bucket.latency_ms_max = max(bucket.latency_ms_max, run.latency_ms_max)
    return buckets


def summary(totals: dict[str, Any] | None) -> dict[str, Any]:
    """Return what the API says about one window: counts, success rate and latency; null where there were no calls.

    The success rate leaves out client errors and throttling, as the detector does.
    """
    counts = {outcome: int((totals or {}).get(outcome) or 0) for outcome in OUTCOMES}
    calls = sum(counts.values())
    judged = calls - counts["client_error"] - counts["throttled"]
    latency = totals if totals is not None and calls else None
    return {
        "calls": calls,
        "outcomes": counts,
        "success_rate": round(counts["success"] / judged, 4) if judged else None,
        "latency_ms_mean": round(latency["latency_ms_sum"] / calls, 3) if latency else None,
        "latency_ms_max": latency["latency_ms_max"] if latency else None,
    }
