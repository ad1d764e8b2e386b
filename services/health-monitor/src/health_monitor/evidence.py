"""Whether evidence may be believed: one tenant, one worker or our own network must not shut a route for everybody.

Pure. Charts assume independent errors from everywhere; these rules are what makes that assumption hold
(health-monitor.md §4.2).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from health_monitor.charts import Chart, Origin, Source

# A tenant or worker that called within this time would have shown the failure as well.
ACTIVE_S: Final = 60.0
SUCCEEDED_S: Final = 5.0
SELF_FAULT_WINDOW_S: Final = 5.0
SELF_FAULT_RATIO: Final = 0.6
# Idle probes come every five seconds: a vendor that was silent for two of them has nothing to say.
SELF_FAULT_ACTIVE_S: Final = 10.0
# Two of two failing may be chance; of three unrelated vendors at least two must fail.
SELF_FAULT_VENDORS: Final = 3
# One failed call is no failing provider.
_FAILING_CALLS: Final = 2
PROBES: Final = 3
# So many failed probes outvote good ones, if they are the majority.
DISSENT: Final = 2
# A burst sends no more within the time that its answers count.
_VOTES: Final = 64
# Good probes are heard of for this long when a chart trips.
PROBES_FRESH_S: Final = 2.0
# Good probes are outweighed by this many thresholds of failures: in a row of failing calls each further one tells
# ln(3/2), for runs of mean length three, instead of the ln(p1/p0) that the chart counts, thirteen times as much
# (decision 26).
OUTWEIGHS_PROBES: Final = 13
# A route without a probe's outcome for this long cannot be confirmed by one.
PROBES_EXPECTED_S: Final = 30.0


@dataclass(slots=True)
class Active:
    """Who called lately."""

    tenants: dict[str, float] = field(default_factory=dict)
    workers: dict[str, float] = field(default_factory=dict)
    succeeded: dict[str, float] = field(default_factory=dict)

    def seen(self, origin: Origin, now: float, *, failed: bool) -> None:
        """Note a caller, and whether its call failed."""
        self.tenants[origin.tenant] = now
        self.workers[origin.worker] = now
        if not failed:
            self.succeeded[origin.tenant] = now

    def others_succeed(self, tenant: str, now: float) -> bool:
        """Tell whether another tenant's call succeeded lately."""
        return any(name != tenant and now - at <= SUCCEEDED_S for name, at in self.succeeded.items())

    def forget(self, now: float) -> None:
        """Drop who was silent for too long; call it now and then."""
        for seen in (self.tenants, self.workers, self.succeeded):
            for name in [name for name, at in seen.items() if now - at > ACTIVE_S]:
                del seen[name]


@dataclass(slots=True)
class Probes:
    """Outcomes of probes in a row, and who had other luck meanwhile."""

    failed: int = 0
    good: int = 0
    failed_at: float = float("-inf")
    good_at: float = float("-inf")
    heard_at: float = float("-inf")
    _votes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=_VOTES))
    # Since the first failed probe of the row; `answered` are good probes of workers that saw no failure.
    answered: int = 0
    bad_workers: set[str] = field(default_factory=set)
    good_workers: set[str] = field(default_factory=set)
    bad_sources: set[Source] = field(default_factory=set)
    good_sources: set[Source] = field(default_factory=set)

    def probe(self, origin: Origin, *, failed: bool, now: float) -> None:
        """Take one probe's outcome."""
        self.heard_at = now
        self._votes.append((now, failed))
        if failed:
            if not self.failed:
                self._forget()
            self.failed, self.good, self.failed_at = self.failed + 1, 0, now
            self.bad_workers.add(origin.worker)
            self.bad_sources.add(origin.source)
            return
        self.good, self.good_at = self.good + 1, now
        if origin.worker in self.bad_workers or not self.failed:
            self.failed = 0
        else:
            self.answered += 1
            self.call(origin, failed=False)

    def call(self, origin: Origin, *, failed: bool) -> None:
        """Take the outcome of a business call into account while probes fail."""
        if self.failed:
            (self.bad_workers if failed else self.good_workers).add(origin.worker)
            (self.bad_sources if failed else self.good_sources).add(origin.source)

    def start_again(self) -> None:
        """Count from zero."""
        self.failed = self.good = 0
        self._forget()

    @property
    def confirmed(self) -> bool:
        """Whether three probes in a row failed, and not just where one worker or one tenant stands alone."""
        return self.failed >= PROBES and self.failed > self.answered and not self.lonely

    @property
    def lonely(self) -> bool:
        """Whether all failures are one worker's, or one tenant's credential's, while another one succeeds."""
        worker = len(self.bad_workers) == 1 and bool(self.good_workers - self.bad_workers)
        source = len(self.bad_sources) == 1 and bool(self.good_sources - self.bad_sources)
        return worker or source

    def contradict(self, now: float, since: float | None = None) -> bool:
        """Tell whether the probes of just now speak against an outage: one succeeded, and most did not fail.

        What was asked before the first failure, `since`, says nothing. One failed probe among good ones is what a small
        error ratio does to a burst of probes now and then.
        """
        fresh = [failed for at, failed in self._votes if at >= max(now - PROBES_FRESH_S, since or 0.0)]
        bad = sum(fresh)
        return bad < len(fresh) and not (bad >= DISSENT and bad * 2 > len(fresh))

    def passed(self, now: float) -> bool:
        """Tell whether three probes in a row succeeded just now."""
        return self.good >= PROBES and now - self.good_at <= PROBES_FRESH_S

    def _forget(self) -> None:
        self.answered = 0
        for names in (self.bad_workers, self.good_workers, self.bad_sources, self.good_sources):
            names.clear()


def objection(
    chart: Chart, active: Active, probes: Probes, now: float, *, since: float | None = None, total: bool = True
) -> str | None:
    """Return why a chart above its threshold may not decide yet, in words, or None when it may.

    A good probe speaks against a `total` outage. Against some errors or slowness it says nothing, so there a single
    witness needs twice the evidence instead of a confirmation. The failures began at `since`.
    """
    if probes.confirmed:
        return None
    sources, workers = +chart.by_source, +chart.by_worker
    tenants = {tenant for tenant, _ in sources}
    doubled = chart.score > 2 * chart.h
    unprobed = now - probes.heard_at > PROBES_EXPECTED_S
    if len(active.tenants) > 1 and sources:
        (tenant, _), most = sources.most_common(1)[0]
        # Where nobody probes, a tenant with most of the traffic would otherwise hide an outage for good.
        outage = doubled and unprobed and len(tenants) > 1 and not active.others_succeed(tenant, now)
        if most * 2 > sources.total() and not outage:
            return f"more than half of the failures are tenant {tenant}'s, and others are active"
    if total and probes.contradict(now, since):
        # Tenants' failures are no independent witnesses: a vendor's hiccup hits them all, and is over before a probe
        # sees it. Two tenants may also have bad luck at the same time; a third one's failures, where there is one, are
        # no chance.
        witnesses = min(max(2, len(active.tenants)), 3)
        outweighed = chart.score > OUTWEIGHS_PROBES * chart.h and len(tenants) >= witnesses
        return None if outweighed else "probes succeed"
    if len(tenants) > 1 or len(workers) > 1 or (doubled and (unprobed or not total)):
        return None
    return "one worker and one tenant, not confirmed by probes"


class SelfFault:
    """Tells whether we are at fault ourselves: most unrelated vendors fail at once, or our control probe does."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[int, float]] = {}
        self._seen: dict[str, float] = {}
        self._cleared_until = float("-inf")
        self.control_failed = False

    def observe(self, provider: str, count: int, now: float, *, failed: bool) -> None:
        """Take judged calls in a row; slugs with the same first word are one vendor."""
        vendor = provider.split("_", maxsplit=1)[0]
        self._seen[vendor] = now
        if failed:
            self._failed[vendor] = self._failed.get(vendor, (0, now))[0] + count, now
        else:
            self._failed.pop(vendor, None)

    def clear(self, now: float) -> None:
        """Believe the evidence for the next minute: an operator knows better."""
        self._cleared_until = now + ACTIVE_S

    def reason(self, now: float) -> str | None:
        """Return why nothing should be decided now, or None."""
        if now < self._cleared_until:
            return None
        if self.control_failed:
            return "the control probe fails"
        active = [vendor for vendor, at in self._seen.items() if now - at <= SELF_FAULT_ACTIVE_S]
        failing = [vendor for vendor in active if self._failing(vendor, now)]
        if len(active) >= SELF_FAULT_VENDORS and len(failing) >= SELF_FAULT_RATIO * len(active):
            return f"{len(failing)} of {len(active)} unrelated vendors fail within {SELF_FAULT_WINDOW_S:.0f} s"
        return None

    def _failing(self, vendor: str, now: float) -> bool:
        """Tell whether a vendor's last calls all failed: a ratio would see an outage only when it is old."""
        calls, at = self._failed.get(vendor, (0, now))
        return calls >= _FAILING_CALLS and now - at <= SELF_FAULT_WINDOW_S
