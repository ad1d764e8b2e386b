"""The state machine of one route: what its evidence, time and operators make of it; pure, the dice are handed in.

States and rules: health-monitor.md §4.4. Must never be moved by anything but `observe`, `tick` and the operator's
`force` and `release`, each with a time that only grows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, Literal

from contracts.events.health import RouteState
from contracts.events.sync import CallRun
from health_monitor import words
from health_monitor.charts import Chart, Origin, Sprt
from health_monitor.detector import VERDICTS, Track, Verdict
from health_monitor.evidence import DISSENT, PROBES_EXPECTED_S, objection
from health_monitor.thresholds import DEGRADED_P1, LATENCY_P0, LATENCY_P1

Probe = Literal["idle", "burst", "canary"]

SUSPECT_S: Final = 2.0
# After a suspicion that nothing confirmed, the next one waits, longer every time, until the charts are clean.
QUIET_MIN_S: Final = 2.0
# A probe burst needs this long for its first answer; only a hang costs the whole wait.
PROBES_ASKED_S: Final = 0.3
QUIET_MAX_S: Final = 60.0
HOLD_S: Final = 5.0
HOLD_MAX_S: Final = 300.0
FAILOVER_MEMORY_S: Final = 3600.0
GOOD_PROBES: Final = 3
# 250 ms apart where they are sent; a report may wait 100 ms for its flush.
GOOD_PROBE_SPACING_S: Final = 0.15
# A provider without a probe comes back by trying: this long after the hold.
UNPROBED_S: Final = 10.0
# Share of calls and the failure ratio that the step must rule out (7, 7 and 22 clean calls).
LADDER: Final = ((5, 0.5), (25, 0.5), (100, 0.2))
# A run of successes beyond this leaves every chart at zero, whatever it was.
_SETTLED: Final = 400

OPERATED: Final = frozenset({RouteState.MAINTENANCE, RouteState.FORCED_UP, RouteState.FORCED_DOWN})
_WORSE: Final = frozenset({RouteState.SUSPECT, RouteState.DEGRADED, RouteState.DOWN})
_SHARES: Final = {
    RouteState.DEGRADED: 50,
    RouteState.DOWN: 0,
    RouteState.MAINTENANCE: 0,
    RouteState.FORCED_DOWN: 0,
}


@dataclass(frozen=True, slots=True)
class Move:
    """One decision about a route: the states, why in words, what it means, and the numbers.

    `kind` is what decided: outage, degraded, latency, probes, ladder, operator, call, suspicion, calm, or unprobed: a
    suspicion is over that nobody could ask the provider about.
    `detection_s` are the seconds since the first failure.
    """

    before: RouteState
    after: RouteState
    reason: str
    kind: str
    share: int
    probe: Probe
    idempotent_only: bool = False
    evidence: dict[str, Any] = field(default_factory=dict)
    detection_s: float | None = None


Permit = Callable[[], str | None]
"""Returns why the route may not be shut now, or None: the panic guard's say (guarantee 7)."""


class Machine:
    """One route. `permit` is asked before it goes down; `frozen` stops every decision of its own (SELF_FAULT)."""

    def __init__(self, dice: Random, permit: Permit = lambda: None, track: Track | None = None) -> None:
        self.track = track or Track()
        self.state = RouteState.UNKNOWN
        self.step = 0
        self.held: str | None = None
        self.frozen = False
        self._dice = dice
        self._permit = permit
        self._entered: dict[RouteState, deque[float]] = {RouteState.DOWN: deque(), RouteState.DEGRADED: deque()}
        self._since = self._hold_until = self._quiet_until = float("-inf")
        self._quiet_s = QUIET_MIN_S
        self._step_at = float("-inf")
        self._before_suspect = RouteState.UNKNOWN
        self._probes_good = 0
        self._probe_good_at = float("-inf")
        self._errors, self._slowness = Sprt(self.track.p0, DEGRADED_P1), Sprt(LATENCY_P0, LATENCY_P1)
        self._moves: list[Move] = []

    # --- what others read ---------------------------------------------------------------------------------------------

    @property
    def share(self) -> int:
        """The percentage of calls that may take the route."""
        return LADDER[self.step][0] if self.state is RouteState.RECOVERING else _SHARES.get(self.state, 100)

    @property
    def idempotent_only(self) -> bool:
        """Whether only what may be repeated rides: the first step of a return."""
        return self.state is RouteState.RECOVERING and self.step == 0

    def probe(self, now: float) -> Probe:
        """Return how eagerly workers should probe now."""
        if self.state is RouteState.SUSPECT or (self.state is RouteState.DOWN and now >= self._hold_until):
            return "burst"
        return "canary" if self.state in (RouteState.RECOVERING, RouteState.DEGRADED) else "idle"

    def failovers(self, now: float, state: RouteState = RouteState.DOWN) -> int:
        """Return how often the route went down (or degraded) within the last hour."""
        entered = self._entered[state]
        while entered and now - entered[0] > FAILOVER_MEMORY_S:
            entered.popleft()
        return len(entered)

    # --- what moves it ------------------------------------------------------------------------------------------------

    def restore(self, state: RouteState, failovers: int, now: float) -> None:
        """Take over a route from another owner or an earlier process; a suspicion ends, a ladder starts again."""
        self._entered[RouteState.DOWN].extend([now] * failovers)
        self.state = RouteState.HEALTHY if state is RouteState.SUSPECT else state
        self._begin(now)

    def observe(self, run: CallRun, worker: str, now: float) -> list[Move]:
        """Take a run of calls and return the decisions on the way, in order."""
        self._moves = []
        origin, verdict = Origin(worker, run.tenant, run.credential), VERDICTS[run.outcome]
        if run.kind == "retracted":
            self.track.retracted(origin, run)
        elif run.kind == "provisional" or verdict is Verdict.BAD:
            for _ in range(min(self.track.fresh(run, origin), _SETTLED)):
                self._failed(run, origin, now)
        elif verdict is Verdict.GOOD:
            self._passed(run, origin, now)
        return self._moves

    def tick(self, now: float) -> list[Move]:
        """Let time pass: suspicions end, holds are over, held-back decisions are taken."""
        self._moves = []
        self.track.retune(now)
        if self.frozen:
            return self._moves
        if self.state is RouteState.SUSPECT:
            self._judge(now)
            if self.state is RouteState.SUSPECT and now - self._since >= SUSPECT_S and not self.held:
                probed = self.track.probes.heard_at >= self._since
                self._calm(now, words.unconfirmed(SUSPECT_S, probed=probed), "calm" if probed else "unprobed")
        elif self.state is RouteState.DOWN and now - max(self.track.probes.heard_at, self._hold_until) > UNPROBED_S:
            self._enter(RouteState.RECOVERING, "probes", "nobody probes this route: a few calls try it", now)
        elif self.held:
            self._judge(now)
        return self._moves

    def force(self, state: RouteState, reason: str, now: float) -> list[Move]:
        """Put the route into a state of the operator's; the caller keeps the time to live."""
        self._moves = []
        if state is not self.state:
            self._enter(state, "operator", reason, now)
        return self._moves

    def release(self, reason: str, now: float) -> list[Move]:
        """End the operator's state: a shut route comes back by the ladder, an open one is judged anew."""
        self._moves = []
        if self.state in OPERATED:
            up = self.state is RouteState.FORCED_UP
            self.track.restart()
            self._enter(RouteState.UNKNOWN if up else RouteState.RECOVERING, "operator", reason, now)
        return self._moves

    def thaw(self) -> None:
        """Decide again after a freeze; what was seen meanwhile was our own fault and is forgotten."""
        self.frozen = False
        self.track.restart()
        self.track.probes.start_again()

    # --- calls --------------------------------------------------------------------------------------------------------

    def _failed(self, run: CallRun, origin: Origin, now: float) -> None:
        self.track.failed(origin, run, now)
        if self.state is RouteState.HEALTHY:
            self.track.learn(failed=True)
        if self.frozen or self.state in OPERATED:
            return
        if self.state is RouteState.DOWN:
            if run.probe:
                # A repeat failure extends the deadline; it never shortens it.
                self._probes_good = 0
                self._hold_until = max(self._hold_until, now + self._hold(now))
            return
        if self.state in (RouteState.RECOVERING, RouteState.DEGRADED):
            self._errors.failed()
            self._weigh(now)
        if self.state not in (RouteState.DOWN, RouteState.RECOVERING):
            self._judge(now)
            self._suspect(run, now)

    def _passed(self, run: CallRun, origin: Origin, now: float) -> None:
        count = min(run.count, _SETTLED)
        if self.state is RouteState.HEALTHY:
            self.track.learn(failed=False, count=run.count)
        step = count if self.state in (RouteState.HEALTHY, RouteState.UNKNOWN) and not run.slow and not run.probe else 1
        for _ in range(count // step):
            self.track.passed(origin, run, step, now)
            if not (self.frozen or self.state in OPERATED):
                self._one_passed(run, now)

    def _one_passed(self, run: CallRun, now: float) -> None:
        if self.state is RouteState.DOWN:
            if run.probe:
                self._probed_well(now)
        elif self.state in (RouteState.RECOVERING, RouteState.DEGRADED):
            if not self._errors.accepted:
                self._errors.passed()
            if not self._slowness.accepted or run.slow:
                (self._slowness.failed if run.slow else self._slowness.passed)()
            self._weigh(now)
        elif self.state is RouteState.UNKNOWN:
            self._enter(RouteState.HEALTHY, "call", "the first call succeeded", now)
        elif self.state is RouteState.SUSPECT and self.track.probes.passed(now):
            self._calm(now, "3 probes succeeded")
        if run.slow and self.state in (RouteState.HEALTHY, RouteState.SUSPECT):
            self._judge(now)
        if not self.track.degraded.score:
            self._quiet_s = QUIET_MIN_S
            self.held = None

    def _probed_well(self, now: float) -> None:
        if now < self._hold_until or now - self._probe_good_at < GOOD_PROBE_SPACING_S:
            return
        self._probes_good, self._probe_good_at = self._probes_good + 1, now
        if self._probes_good >= GOOD_PROBES:
            self._enter(RouteState.RECOVERING, "probes", f"{GOOD_PROBES} good probes in a row", now)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        """Go down or degrade, if a chart or the probes say so and nothing speaks against it."""
        track = self.track
        if track.probes.confirmed:
            self._go_down("probes", "3 of 3 probes failed", now)
        elif track.outage.tripped and self._admits(track.outage, now):
            if self._asked(now):
                self._go_down("outage", words.tripped("outage", track.outage), now)
            elif self.state in (RouteState.HEALTHY, RouteState.UNKNOWN):
                self._enter(RouteState.SUSPECT, "suspicion", words.tripped("outage", track.outage), now)
        elif self.state is not RouteState.DEGRADED:
            for name, chart in (("degraded", track.degraded), ("latency", track.latency)):
                if chart.tripped and self._admits(chart, now):
                    self._enter(RouteState.DEGRADED, name, words.tripped(name, chart), now)
                    return

    def _admits(self, chart: Chart, now: float) -> bool:
        total = chart is self.track.outage
        track = self.track
        return objection(chart, track.active, track.probes, now, since=track.onset, total=total) is None

    def _asked(self, now: float) -> bool:
        """Tell whether probes had their chance to speak against an outage, where somebody probes at all."""
        probes = self.track.probes
        if self.state is RouteState.DEGRADED or probes.failed >= DISSENT or now - probes.heard_at > PROBES_EXPECTED_S:
            return True
        return self.state is RouteState.SUSPECT and now - self._since >= PROBES_ASKED_S

    def _go_down(self, kind: str, cause: str, now: float) -> None:
        self.held = self._permit()
        if self.held is None:
            self._enter(RouteState.DOWN, kind, cause, now)

    def _suspect(self, run: CallRun, now: float) -> None:
        if self.state not in (RouteState.HEALTHY, RouteState.UNKNOWN) or now < self._quiet_until:
            return
        if run.probe:
            self._enter(RouteState.SUSPECT, "suspicion", "a probe failed", now)
        elif self.track.outage.suspicious or self.track.degraded.suspicious:
            chart = self.track.outage if self.track.outage.suspicious else self.track.degraded
            name = "outage" if chart is self.track.outage else "degraded"
            self._enter(RouteState.SUSPECT, "suspicion", words.suspicious(name, chart), now)

    def _calm(self, now: float, reason: str, kind: str = "calm") -> None:
        """End a suspicion; with probes against it the chart of outages starts again at half of its threshold.

        Good probes say nothing about some errors: lowered each time, the other chart would never see half of all calls
        fail.
        """
        outage = self.track.outage
        if self.track.probes.passed(now) and not outage.tripped:
            outage.lower(outage.h / 2)
        self._quiet_until, self._quiet_s = now + self._quiet_s, min(2 * self._quiet_s, QUIET_MAX_S)
        self._enter(self._before_suspect, kind, reason, now)

    def _weigh(self, now: float) -> None:
        """Advance, or fall back, by the sequential tests of a route that is not well."""
        if self.state is RouteState.DEGRADED:
            if self._errors.rejected or self._slowness.rejected:
                self._test(DEGRADED_P1)
            elif self._errors.accepted and self._slowness.accepted and now >= self._hold_until:
                self._enter(RouteState.HEALTHY, "ladder", "errors and slow calls are back to normal", now)
        elif self._errors.rejected or self.track.probes.confirmed:
            self._enter(RouteState.DOWN, "ladder", f"failed at {self.share} % of the traffic while recovering", now)
        elif self._errors.accepted and not self._damped(now):
            if self.step + 1 < len(LADDER):
                self.step += 1
                self._step_at = now
                self._test(LADDER[self.step][1])
                told = f"raised to {self.share} % after a clean step"
                self._note(self.state, "ladder", told, self.track.snapshot(now), now)
            else:
                self._enter(RouteState.HEALTHY, "ladder", "clean at the full traffic", now)

    def _enter(self, state: RouteState, kind: str, cause: str, now: float) -> None:
        before, self.state = self.state, state
        evidence = self.track.snapshot(now)
        onset = self.track.onset if state in self._entered else None
        if state is RouteState.SUSPECT:
            self._before_suspect = before
            # Only probes sent since then say something about the suspicion.
            self.track.probes.good = 0
        if state in self._entered:
            self._entered[state].append(now)
        self._begin(now)
        self._note(before, kind, cause, evidence, now)
        if onset is not None:
            self._moves[-1] = replace(self._moves[-1], detection_s=max(0.0, now - onset))

    def _note(self, before: RouteState, kind: str, cause: str, evidence: dict[str, Any], now: float) -> None:
        told = words.explained(cause, evidence) if self.state in _WORSE and kind != "operator" else cause
        fresh = (self.share, self.probe(now), self.idempotent_only)
        self._moves.append(Move(before, self.state, told, kind, *fresh, evidence))

    def _begin(self, now: float) -> None:
        """Start the clocks and tests of the state just entered."""
        self._since, self.held, self.step, self._probes_good = now, None, 0, 0
        if self.state in self._entered:
            self._hold_until = now + self._hold(now)
        if self.state is RouteState.RECOVERING:
            self._test(LADDER[0][1])
        elif self.state is RouteState.DEGRADED:
            self._test(DEGRADED_P1)
        if self.state is not RouteState.SUSPECT:
            self.track.probes.start_again()
        # Evidence that was acted upon is used up; a calmed suspicion's is not.
        if self.state is RouteState.DEGRADED:
            self.track.degraded.reset()
            self.track.latency.reset()
        elif self.state in (RouteState.DOWN, RouteState.RECOVERING) or self.state in OPERATED:
            self.track.restart()

    def _damped(self, now: float) -> bool:
        """Tell whether a route that keeps failing must prove itself longer before it gets all traffic again."""
        earlier = self.failovers(now) - 1
        return self.step == len(LADDER) - 2 and earlier > 0 and now - self._step_at < _backoff(earlier)

    def _test(self, p1: float) -> None:
        self._errors, self._slowness = Sprt(self.track.p0, p1), Sprt(LATENCY_P0, LATENCY_P1)

    def _hold(self, now: float) -> float:
        """Return min(300 s, 5 s x 2^k) x U(0.5, 1); k counts the earlier entries of the last hour."""
        return _backoff(self.failovers(now, self.state) - 1) * self._dice.uniform(0.5, 1)


def _backoff(earlier: int) -> float:
    return float(min(HOLD_MAX_S, HOLD_S * 2 ** min(max(earlier, 0), 16)))
