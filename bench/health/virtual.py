"""Outages in virtual time: the shipped state machine and the workers' breakers, beside five failures in a row.

Stands in for workers: calls evenly spaced, probes as the record asks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from bench.health.calls import CAPABILITY, FLUSH_S, run_of
from contracts.events.health import RouteState
from contracts.events.sync import Outcome
from health_monitor.states import Machine
from sync_worker.outbound.breaker import ROUTE, Breakers
from sync_worker.outbound.path import DOUBT_S
from sync_worker.outbound.route_table import Place

TICK_S = 0.01
HANG_AGE_S = 0.5
PROBE_TIMEOUT_S = 0.5
WORKERS = 2
# As the workers' prober: a burst is three at once, 100 ms apart, and then three a second.
PROBE_EVERY = {"idle": 5.0, "burst": 1 / 3, "canary": 1.0}
BURST_GAPS_S = (0.0, 0.1, 0.2)
# Until a worker hears of a decision, p99 of `propagation`.
HEARD_S = 0.01
_ROUTE = Place("acme", CAPABILITY, "live")


class InARow:
    """The baseline: five failures in a row shut a route, three good probes in a row open it."""

    def __init__(self) -> None:
        self.down = False
        self._bad = self._good = 0

    def call(self, *, failed: bool) -> None:
        """Take one outcome."""
        self._bad = self._bad + 1 if failed else 0
        self._good = 0 if failed else self._good + 1
        if (self._bad >= 5) if not self.down else (self._good >= 3):
            self.down, self._bad, self._good = not self.down, 0, 0


@dataclass
class World:
    """One provider in virtual time, with a machine or the baseline to route its calls."""

    rate: float
    fault: Callable[[float], str]
    seed: int
    baseline: InARow | None = None
    machine: Machine = field(init=False)
    now: float = 0.0
    failed_calls: int = 0
    switches: list[tuple[float, RouteState]] = field(default_factory=list)
    _due: list[tuple[float, bool, int, str]] = field(default_factory=list)
    _reported: list[tuple[float, bool, int, str]] = field(default_factory=list)
    _waiting: list[tuple[float, int]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self._dice = Random(self.seed)
        self.machine = Machine(self._dice)
        self._call_at = self._dice.random() / (self.rate or 1)
        self._probes_at = [[self._dice.random() * PROBE_EVERY["idle"]] for _ in range(WORKERS)]
        self._wanted = "idle"
        self.doubts: list[Breakers[Place]] = [
            Breakers(lambda: self.now, self._dice.uniform, ROUTE) for _ in range(WORKERS)
        ]
        for worker, doubt in enumerate(self.doubts if self.baseline is None else ()):
            doubt.on_open = lambda _place, worker=worker: self._burst(worker)  # type: ignore[misc]

    @property
    def share(self) -> float:
        """The part of the calls that goes to the provider."""
        if self.baseline is not None:
            return 0.0 if self.baseline.down else 1.0
        return self.machine.share / 100

    def play(self, until: float) -> World:
        """Let time pass."""
        while self.now < until:
            self.now += TICK_S
            if self.rate and self.now >= self._call_at:
                self._call_at += 1 / self.rate
                if self._dice.random() < self.share:
                    self._ask()
            self._go_on()
            self._probe()
            arrived = [one for one in self._due if one[0] <= self.now]
            self._due = [one for one in self._due if one[0] > self.now]
            for at, probe, number, outcome in arrived:
                self._end(at, outcome, number, probe=probe)
            reported = [one for one in self._reported if one[0] <= self.now]
            self._reported = [one for one in self._reported if one[0] > self.now]
            for _, probe, number, outcome in reported:
                self._arrive(outcome, number, probe=probe)
            if self.baseline is None:
                self._note(self.machine.tick(self.now))
        return self

    def _ask(self) -> None:
        """Make a call, or let it wait where its worker's last two failed."""
        self._number += 1
        if self.baseline is None and self.doubts[self._number % WORKERS].shut_for_s(_ROUTE) > 0:
            self._waiting.append((self.now + DOUBT_S, self._number))
        else:
            self._start(self._number, probe=False)

    def _go_on(self) -> None:
        """Take up calls that wait; they go elsewhere once a decision is there, and later if none is."""
        waiting, self._waiting = self._waiting, []
        for until, number in waiting if self.share else ():
            if self.doubts[number % WORKERS].shut_for_s(_ROUTE) == 0:
                self._start(number, probe=False)
            elif self.now < until:
                self._waiting.append((until, number))

    def _burst(self, worker: int) -> None:
        planned = self._probes_at[worker]
        planned[:] = [self.now + gap for gap in BURST_GAPS_S]

    def _probe(self) -> None:
        """Send the probes that are due, of each worker."""
        if self.baseline is not None:
            wanted = "canary" if self.baseline.down else "idle"
        else:
            wanted = self.machine.probe(self.now)
        changed, self._wanted = wanted != self._wanted, wanted
        for planned in self._probes_at:
            if changed and wanted == "burst":
                planned[:] = [self.now + HEARD_S + gap for gap in BURST_GAPS_S]
            elif changed:
                planned[:] = [min(planned[0], self.now + PROBE_EVERY[wanted])]
            while planned[0] <= self.now:
                sent = planned.pop(0)
                self._number += 1
                self._start(self._number, probe=True)
                if not planned:
                    planned.append(sent + PROBE_EVERY[wanted])

    def _start(self, number: int, *, probe: bool) -> None:
        mode = self.fault(self.now)
        takes = {"ok": 0.05, "500": 0.02, "hang": PROBE_TIMEOUT_S if probe else HANG_AGE_S}[mode]
        if mode != "ok" and not probe:
            self.failed_calls += 1
        self._due.append((self.now + takes, probe, number, mode))

    def _end(self, at: float, mode: str, number: int, *, probe: bool) -> None:
        """Let a worker see how a call ended; the health monitor hears of it a flush later."""
        self.doubts[number % WORKERS].record(_ROUTE, failed=mode != "ok")
        self._reported.append((at + FLUSH_S, probe, number, mode))

    def _arrive(self, mode: str, number: int, *, probe: bool) -> None:
        if self.baseline is not None:
            was = self.baseline.down
            self.baseline.call(failed=mode != "ok")
            if was != self.baseline.down:
                self.switches.append((self.now, RouteState.HEALTHY if was else RouteState.DOWN))
            return
        outcome: Outcome = "success" if mode == "ok" else "server_error" if mode == "500" else "timeout"
        kind = "provisional" if mode == "hang" and not probe else "final"
        self._note(self.machine.observe(run_of(outcome, number, probe=probe, kind=kind), f"w{number % 2}", self.now))

    def _note(self, moves: list) -> None:  # type: ignore[type-arg]  # of health_monitor.states.Move
        for move in moves:
            main = {RouteState.DOWN, RouteState.DEGRADED}
            back = move.before is move.after is RouteState.RECOVERING and move.share == 100
            if back or (move.after in main and move.before is not RouteState.RECOVERING):
                self.switches.append((self.now, move.after))


def outage(rate: float, mode: str, seed: int, *, baseline: bool) -> tuple[float, int, float]:
    """Return seconds to DOWN, calls that failed until then, and seconds from the provider's return to full traffic."""
    start, length = 200.0, 60.0
    world = World(
        rate, lambda now: mode if start <= now < start + length else "ok", seed, InARow() if baseline else None
    )
    world.play(start)
    world.switches.clear()
    failed = world.failed_calls
    while not world.switches and world.now < start + length:
        world.play(world.now + TICK_S)
    seen, lost = world.now - start, world.failed_calls - failed
    world.play(start + length)
    while world.now < start + length + 120 and not _back(world):
        world.play(world.now + TICK_S)
    return seen, lost, world.now - start - length


def _back(world: World) -> bool:
    if world.baseline is not None:
        return not world.baseline.down
    return world.machine.share == 100


def virtual(runs: int) -> None:
    print(
        f"\nVirtual time, {runs} runs each; p50 / max. Probes take {PROBE_TIMEOUT_S} s in a hang, reports {FLUSH_S} s."
    )
    print(f"{'fault':<22}{'to the decision (s)':>22}{'failed calls':>16}{'back at 100 % (s)':>20}")
    for rate, mode, name in (
        (10, "500", "5xx, 10 calls/s"),
        (20, "500", "5xx, 20 calls/s"),
        (50, "500", "5xx, 50 calls/s"),
        (100, "500", "5xx, 100 calls/s"),
        (10, "hang", "hang, 10 calls/s"),
        (0, "500", "5xx, no traffic"),
    ):
        for baseline in (False, True):
            found = [outage(rate, mode, seed, baseline=baseline) for seed in range(runs)]
            seen, lost, back = zip(*found, strict=True)
            label = f"{name}" if not baseline else "   5 in a row"
            print(f"{label:<22}{_spread(seen):>22}{_spread(lost):>16}{_spread(back):>20}")
    flaps = {}
    for name, counter in (("shipped", None), ("5 in a row", InARow)):
        worlds = [
            World(10, lambda now: "500" if now % 20 >= 10 else "ok", seed, counter() if counter else None).play(300)
            for seed in range(runs)
        ]
        flaps[name] = [len(world.switches) for world in worlds]
    told = ", ".join(f"{name}: p50 {statistics.median(found):g}, max {max(found)}" for name, found in flaps.items())
    print(f"flapper 10 s / 10 s, switches in 5 min: {told}")


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}"
