"""What calls say about one route: charts of failures and slowness, probes, and the rhythm that they are judged by.

Pure and clock-free: time comes in as seconds that only grow. Must never decide a state; `states` does.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from contracts.events.sync import CallRun, Outcome
from health_monitor import thresholds
from health_monitor.charts import Chart, Origin, Source
from health_monitor.evidence import Active, Probes

# Healthy ratios change over days; a memory of this many calls is 14 minutes at 10 calls/s and a day at 0.1.
_BASELINE_CALLS: Final = 10_000
_RATE_MEMORY_S: Final = 60.0
_RECENT: Final = 20
# As many calls as idle probes.
_BUSY_PER_S: Final = 0.2
# What one more failure of a run tells beyond its first: ln(1 / P(a run goes on)) for runs of mean length four, where
# failures that have nothing to do with each other would tell ln(p1/p0), thirteen times as much (decision 26).
_RUN_STEP: Final = math.log(4 / 3)


class Verdict(StrEnum):
    """What one call says about its provider."""

    GOOD = "good"
    BAD = "bad"
    SILENT = "silent"


# A client error is our own fault (401 and 403 the credential's), throttling is a quota: neither speaks of health.
VERDICTS: Final[dict[Outcome, Verdict]] = {
    "success": Verdict.GOOD,
    "client_error": Verdict.SILENT,
    "throttled": Verdict.SILENT,
    "server_error": Verdict.BAD,
    "timeout": Verdict.BAD,
    "connect_error": Verdict.BAD,
}


@dataclass(slots=True)
class Rate:
    """Calls per second over about the last minute."""

    level: float = 0.0
    at: float = 0.0
    since: float | None = None

    def add(self, count: int, now: float) -> None:
        """Take calls."""
        if self.since is None:
            self.since = now
        self.level = self.level * math.exp(-max(0.0, now - self.at) / _RATE_MEMORY_S) + count
        self.at = max(now, self.at)

    def per_s(self, now: float) -> float:
        """Return the rate."""
        if self.since is None:
            return 0.0
        # A young memory is not full yet.
        filled = 1 - math.exp(-max(1.0, now - self.since) / _RATE_MEMORY_S)
        return self.level * math.exp(-max(0.0, now - self.at) / _RATE_MEMORY_S) / (_RATE_MEMORY_S * filled)


class Track:
    """The evidence about one route."""

    def __init__(self, ratio: float = 0.0) -> None:
        self.ratio = ratio
        p0 = thresholds.baseline(ratio)
        self.outage = Chart(p0, thresholds.OUTAGE_P1, thresholds.threshold(thresholds.OUTAGE, p0, 1))
        self.degraded = Chart(p0, thresholds.DEGRADED_P1, thresholds.threshold(thresholds.DEGRADED, p0, 1))
        self.latency = Chart(thresholds.LATENCY_P0, thresholds.LATENCY_P1, thresholds.latency_threshold(1))
        self.rate = Rate()
        self.active = Active()
        self.probes = Probes()
        self.recent: deque[Outcome] = deque(maxlen=_RECENT)
        self.onset: float | None = None
        self.in_flight: dict[str, int] = {}
        self._in_run = False
        self._failing: set[Source] = set()
        self._provisional: Counter[tuple[Origin, str]] = Counter()

    @property
    def p0(self) -> float:
        """The baseline that failures are judged by."""
        return self.outage.p0

    def retune(self, now: float) -> None:
        """Adapt baseline and thresholds to what was learned; forget who left."""
        if not self.outage.score and not self.degraded.score:
            self._failing.clear()
        p0, rate = thresholds.baseline(self.ratio), self.rate.per_s(now)
        self.outage.retune(p0, thresholds.threshold(thresholds.OUTAGE, p0, rate))
        self.degraded.retune(p0, thresholds.threshold(thresholds.DEGRADED, p0, rate))
        self.latency.retune(thresholds.LATENCY_P0, thresholds.latency_threshold(rate))
        self.active.forget(now)

    def fresh(self, run: CallRun, origin: Origin) -> int:
        """Return how many calls of a run are new: a call that failed by age is not counted again at its end."""
        if run.kind != "final" or VERDICTS[run.outcome] is not Verdict.BAD:
            return run.count
        known = (origin, run.operation)
        repeated = min(run.count, self._provisional[known])
        self._provisional[known] -= repeated
        return run.count - repeated

    def failed(self, origin: Origin, run: CallRun, now: float) -> None:
        """Take one failure."""
        if run.kind == "provisional":
            self._provisional[origin, run.operation] += 1
        self._note(origin, run, 1, now)
        if run.probe:
            self.probes.probe(origin, failed=True, now=now)
            if self._busy(now):
                return
        else:
            self.probes.call(origin, failed=True)
        if not self.degraded.score:
            self.onset = now
        self.outage.failed(origin)
        # Errors come in runs, of one caller or of all, and the chart's threshold assumes that they do not: a run counts
        # once and a little. An outage is seen by the other chart, which forgets ten times faster and asks the probes.
        self.degraded.failed(origin, _RUN_STEP if self._goes_on(origin) else None)
        self._in_run = True
        self._failing.add(origin.source)

    def passed(self, origin: Origin, run: CallRun, count: int, now: float) -> None:
        """Take successes in a row."""
        self._note(origin, run, count, now)
        if run.probe:
            for _ in range(count):
                self.probes.probe(origin, failed=False, now=now)
            if self._busy(now):
                return
        else:
            self.probes.call(origin, failed=False)
        self.outage.passed(count)
        # The success that ends a run tells no more of how often runs begin than the failures after its first.
        self.degraded.passed(count - 1 if self._goes_on(origin) else count)
        self._in_run = False
        self._failing.discard(origin.source)
        if run.slow:
            for _ in range(count):
                self.latency.failed(origin)
        else:
            self.latency.passed(count)

    def retracted(self, origin: Origin, run: CallRun) -> None:
        """Take back failures by age of calls that succeeded after all."""
        known = (origin, run.operation)
        for _ in range(min(run.count, self._provisional[known])):
            self.outage.retracted(origin)
            self.degraded.retracted(origin)
        self._provisional[known] = max(0, self._provisional[known] - run.count)

    def learn(self, *, failed: bool, count: int = 1) -> None:
        """Let the baseline follow calls of a healthy route."""
        kept = (1 - 1 / _BASELINE_CALLS) ** count
        self.ratio = self.ratio * kept + (1 - kept if failed else 0.0)

    def restart(self, at: float = 0.0) -> None:
        """Set every chart down to a share `at` of its threshold."""
        for chart in (self.outage, self.degraded, self.latency):
            chart.lower(at * chart.h)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the numbers that a decision is explained with."""
        bad = [outcome for outcome in self.recent if VERDICTS[outcome] is Verdict.BAD]
        chart = max((self.outage, self.degraded), key=lambda one: one.score / one.h)
        return {
            "failed": len(bad),
            "calls": len(self.recent),
            "outcomes": dict(Counter(bad).most_common()),
            "s_outage": round(self.outage.score, 2),
            "h_outage": self.outage.h,
            "s_degraded": round(self.degraded.score, 2),
            "h_degraded": self.degraded.h,
            "s_latency": round(self.latency.score, 2),
            "h_latency": self.latency.h,
            "baseline_ratio": self.p0,
            "calls_per_s": round(self.rate.per_s(now), 3),
            "workers": len(+chart.by_worker),
            "tenants": len({tenant for tenant, _ in +chart.by_source}),
            "active_workers": len(self.active.workers),
            "active_tenants": len(self.active.tenants),
            "probes_failed": self.probes.failed,
            "probes_good": self.probes.good,
            "in_flight": sum(self.in_flight.values()),
        }

    def _goes_on(self, origin: Origin) -> bool:
        """Tell whether a run of failures is under way, of everybody's calls or of this caller's."""
        return self._in_run or origin.source in self._failing

    def _busy(self, now: float) -> bool:
        """Tell whether calls speak for themselves: probes are sent because of failures, and would count those twice."""
        return self.rate.per_s(now) >= _BUSY_PER_S

    def _note(self, origin: Origin, run: CallRun, count: int, now: float) -> None:
        self.active.seen(origin, now, failed=VERDICTS[run.outcome] is Verdict.BAD)
        if not run.probe:
            self.rate.add(count, now)
        self.recent.extend([run.outcome] * min(count, _RECENT))
