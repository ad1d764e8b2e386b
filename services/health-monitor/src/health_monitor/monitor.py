"""All routes of this owner in memory: evidence in, decisions out; no I/O, so that a failover waits for nothing.

Epochs are (generation, counter): the counter of a route only grows, in memory too, so a decision whose transaction
failed is written later under the epoch that was announced, and no epoch ever names two decisions. Must never decide
about a route whose partition belongs to another replica, nor about a live one by what was seen in the sandbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final, Literal

from chassis.clock import Clock
from chassis.kafka.producer import partition_for
from contracts.events.health import RouteChanged, RouteState
from contracts.events.sync import CallsObserved
from contracts.modes import MODES, Mode, calls_key
from contracts.topics import SYNC_CALLS
from health_monitor.detector import VERDICTS, Track, Verdict
from health_monitor.evidence import SelfFault
from health_monitor.failover import PanicGuard, Plan, Standing, order_of, shares
from health_monitor.states import Machine, Move
from health_monitor.statistics import RouteKey, key_of

# A freeze ends when nothing was wrong for this long.
THAW_AFTER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Decision:
    """One record to publish. `move` is absent where only shares, order or eagerness to probe changed."""

    record: RouteChanged
    move: Move | None = None
    actor: str = ""

    @property
    def key(self) -> RouteKey:
        """The route."""
        return RouteKey(self.record.provider, self.record.capability, self.record.mode)


@dataclass(frozen=True, slots=True)
class Alarm:
    """SELF_FAULT or the panic guard of a mode began or ended: for the audit log and the metrics."""

    kind: Literal["self_fault", "panic_guard"]
    began: bool
    reason: str
    at: datetime
    mode: Mode = "live"


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator demands of a route, until an instant."""

    state: RouteState
    until: datetime
    reason: str
    actor: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the database kept of a route beside its last record: the learned failure ratio and the recent failovers."""

    ratio: float
    failovers: int


@dataclass(slots=True)
class Configuration:
    """What operators configured; replaced as a whole when it was read again."""

    plans: Mapping[str, Plan] = field(default_factory=dict)
    overrides: Mapping[RouteKey, Override] = field(default_factory=dict)
    cleared_at: datetime | None = None


class Monitor:
    """Owns routes. `seen` are the newest records of all routes, other owners' included; feed it with `learned`."""

    def __init__(
        self,
        clock: Clock,
        *,
        dice: Random | None = None,
        has_quota: Callable[[str, Mode], bool] = lambda _provider, _mode: True,
    ) -> None:
        self.generation = 0
        self.seen: dict[RouteKey, RouteChanged] = {}
        self.machines: dict[RouteKey, Machine] = {}
        self.alarms: list[Alarm] = []
        self.frozen: str | None = None
        self.configuration = Configuration()
        self.memory: dict[RouteKey, Remembered] = {}
        self._clock = clock
        self._dice = dice or Random()  # noqa: S311 (jitter, not a secret)
        self._has_quota = has_quota
        self._partitions: set[int] = set()
        self._fault = SelfFault()
        self._panic: dict[Mode, PanicGuard] = {mode: PanicGuard() for mode in MODES}
        self._panicking: set[Mode] = set()
        self._wrong_at = float("-inf")

    # --- ownership ----------------------------------------------------------------------------------------------------

    def owns(self, key: RouteKey) -> bool:
        """Tell whether the route's evidence comes to this replica."""
        return partition_for(calls_key(*key).encode(), SYNC_CALLS.partitions) in self._partitions

    def own(self, partitions: Iterable[int], generation: int) -> list[Decision]:
        """Take over these partitions, and no others, under a generation; returns the records to publish under it.

        Routes of new partitions go on from the newest record that anybody has seen; those of lost ones are forgotten.
        """
        self._partitions, self.generation = set(partitions), max(generation, self.generation)
        for key in [key for key in self.machines if not self.owns(key)]:
            del self.machines[key]
        decided: list[Decision] = []
        for key, record in list(self.seen.items()):
            if self.owns(key) and record.epoch[0] < self.generation:
                self._machine(key)
                decided.append(self._decision(key, record.reason, None))
        return decided

    def learned(self, record: RouteChanged) -> None:
        """Take note of a record from the topic or the mirror; one that is not newer changes nothing."""
        key = RouteKey(record.provider, record.capability, record.mode)
        known = self.seen.get(key)
        if known is None or record.epoch > known.epoch:
            self.seen[key] = record

    # --- evidence and time --------------------------------------------------------------------------------------------

    def observe(self, calls: CallsObserved) -> list[Decision]:
        """Weigh one report of calls and return what follows, in order."""
        key, now = key_of(calls), self._clock.monotonic()
        if not self._may_decide(key):
            return []
        for count, failed in _judged(calls) if calls.mode == "live" else ():
            self._fault.observe(calls.provider, count, now, failed=failed)
        self._consider_fault(now)
        machine = self._machine(key)
        machine.track.in_flight[calls.worker] = calls.in_flight
        decided: list[Decision] = []
        for run in calls.runs:
            decided += self._moved(key, machine.observe(run, calls.worker, now))
        return decided + self._rebalanced({(key.capability, key.mode)} if decided else set())

    def tick(self) -> list[Decision]:
        """Let time pass for every route, and take up what operators configured."""
        now, instant = self._clock.monotonic(), self._clock.now()
        self._consider_fault(now)
        decided: list[Decision] = []
        for key in [key for key in self.configuration.overrides if self._may_decide(key)]:
            self._machine(key)
        for key, machine in [(key, machine) for key, machine in self.machines.items() if self._may_decide(key)]:
            decided += self._operated(key, machine, instant, now)
            decided += self._moved(key, machine.tick(now))
        for mode in MODES:
            held = next((one.held for key, one in self.machines.items() if key.mode == mode and one.held), None)
            if (held is not None) != (mode in self._panicking):
                self._panicking ^= {mode}
                self.alarms.append(Alarm("panic_guard", held is not None, held or "over", instant, mode))
        return decided + self._rebalanced({(key.capability, key.mode) for key in self.machines})

    def configure(self, wanted: Configuration) -> None:
        """Take up what operators want now; a clearance that is new lets everything go."""
        known, self.configuration = self.configuration, wanted
        if wanted.cleared_at is not None and known.cleared_at is not None and wanted.cleared_at > known.cleared_at:
            self.clear()

    def clear(self) -> None:
        """Take an operator's word that the evidence is real: SELF_FAULT and the panic guard let go."""
        self._fault.clear(self._clock.monotonic())
        for guard in self._panic.values():
            guard.clear()
        self._thaw("cleared by an operator")

    def control_probe(self, *, failed: bool) -> None:
        """Take the outcome of our own control probe."""
        self._fault.control_failed = failed

    # --- inside -------------------------------------------------------------------------------------------------------

    def _may_decide(self, key: RouteKey) -> bool:
        """Tell whether the route is ours; a record of a greater generation shows that another owner took it over."""
        known = self.seen.get(key)
        return self.owns(key) and (known is None or known.epoch[0] <= self.generation)

    def _machine(self, key: RouteKey) -> Machine:
        found = self.machines.get(key)
        if found is None:
            known = self.memory.get(key, Remembered(0.0, 0))
            found = Machine(self._dice, lambda: self._permit(key), Track(known.ratio))
            found.frozen = self.frozen is not None
            if key in self.seen:
                found.restore(self.seen[key].state, known.failovers, self._clock.monotonic())
            self.machines[key] = found
        return found

    def _permit(self, key: RouteKey) -> str | None:
        known = len({one.provider for one in (*self.seen, *self.machines) if one.mode == key.mode})
        return self._panic[key.mode].objection(key.provider, known, self._clock.monotonic())

    def _moved(self, key: RouteKey, moves: Iterable[Move]) -> list[Decision]:
        decided = []
        for move in moves:
            if move.after is RouteState.DOWN:
                self._panic[key.mode].shut(key.provider, self._clock.monotonic())
            decided.append(self._decision(key, move.reason, move))
        return decided

    def _operated(self, key: RouteKey, machine: Machine, instant: datetime, now: float) -> list[Decision]:
        wanted = self.configuration.overrides.get(key)
        if wanted is not None and instant < wanted.until:
            moves = machine.force(wanted.state, f"operator {wanted.actor}: {wanted.reason}", now)
        else:
            moves = machine.release("the operator's state is over", now)
        return self._moved(key, moves)

    def _consider_fault(self, now: float) -> None:
        reason = self._fault.reason(now)
        if reason is not None:
            self._wrong_at = now
            if self.frozen is None:
                self.alarms.append(Alarm("self_fault", began=True, reason=reason, at=self._clock.now()))
                for machine in self.machines.values():
                    machine.frozen = True
            self.frozen = reason
        elif self.frozen is not None and now - self._wrong_at >= THAW_AFTER_S:
            self._thaw("it has passed")

    def _thaw(self, why: str) -> None:
        if self.frozen is not None:
            self.frozen = None
            self.alarms.append(Alarm("self_fault", began=False, reason=why, at=self._clock.now()))
            for machine in self.machines.values():
                machine.thaw()

    def _rebalanced(self, touched: set[tuple[str, Mode]]) -> list[Decision]:
        """Publish own routes whose shares, order or eagerness to probe are no longer what was last published."""
        now, decided = self._clock.monotonic(), []
        for capability, mode in sorted(touched):
            order, given = self._distribution(capability, mode)
            for key, machine in self.machines.items():
                last = self.seen.get(key)
                if key[1:] != (capability, mode) or last is None or not self._may_decide(key):
                    continue
                wanted = (order, given, machine.probe(now), machine.share, machine.idempotent_only)
                if wanted != (last.order, dict(last.shares), last.probe, last.share, last.idempotent_only):
                    decided.append(self._decision(key, last.reason, None))
        return decided

    def _distribution(self, capability: str, mode: Mode) -> tuple[tuple[str, ...], dict[str, int]]:
        """Return order and shares of a capability; an operator's plan is for both modes, each fills it by its own."""
        plan = self.configuration.plans.get(capability, Plan())
        standings: dict[str, Standing] = {}
        for key, record in self.seen.items():
            if key[1:] == (capability, mode):
                standings[key.provider] = Standing(record.state, record.share)
        for key, machine in self.machines.items():
            if key[1:] == (capability, mode):
                standings[key.provider] = Standing(machine.state, machine.share, _failed_ratio(machine))
        given = shares(plan, standings, lambda provider: self._has_quota(provider, mode))
        return order_of(plan, list(standings)), given

    def _decision(self, key: RouteKey, reason: str, move: Move | None) -> Decision:
        machine, last = self.machines[key], self.seen.get(key)
        order, given = self._distribution(key.capability, key.mode)
        record = RouteChanged(
            provider=key.provider,
            capability=key.capability,
            mode=key.mode,
            epoch=(self.generation, last.epoch[1] + 1 if last is not None else 1),
            state=move.after if move else machine.state,
            share=move.share if move else machine.share,
            order=order,
            shares=given,
            probe=move.probe if move else machine.probe(self._clock.monotonic()),
            idempotent_only=move.idempotent_only if move else machine.idempotent_only,
            reason=reason,
            decided_at=self._clock.now(),
        )
        self.learned(record)
        wanted = self.configuration.overrides.get(key)
        return Decision(record, move, wanted.actor if move and move.kind == "operator" and wanted else "")


def _judged(calls: CallsObserved) -> Iterator[tuple[int, bool]]:
    """Yield how many calls in a row succeeded or failed."""
    for run in calls.runs:
        verdict = VERDICTS[run.outcome]
        if run.kind == "provisional" or (run.kind == "final" and verdict is Verdict.BAD):
            yield run.count, True
        elif run.kind == "final" and verdict is Verdict.GOOD:
            yield run.count, False


def _failed_ratio(machine: Machine) -> float:
    recent = machine.track.recent
    return sum(VERDICTS[outcome] is Verdict.BAD for outcome in recent) / len(recent) if recent else 0.0


def snapshot(machine: Machine, now: float) -> dict[str, Any]:
    """Return a route's live numbers for the API."""
    return machine.track.snapshot(now) | {"failovers_last_hour": machine.failovers(now), "held": machine.held}
