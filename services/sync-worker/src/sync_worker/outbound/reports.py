"""Outcomes of provider calls on their way to the health monitor: run lengths, flushed within 100 ms.

A first failure after a success is flushed at once, and a call in flight that is older than usual counts as failed until
it ends: reporting delay is part of the detection time (health-monitor.md §2.2). Must never hold up a call; a report
that the broker does not take is counted and dropped.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.telemetry.metrics import bound_gauge, counter
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.sync import ApiVersionSeen, CallRun, CallsObserved, Outcome
from contracts.ids import uuid7
from contracts.modes import Mode, calls_key
from contracts.topics import SYNC_CALLS
from sync_worker.metrics import CALLS_UNREPORTED, IN_FLIGHT
from sync_worker.outbound.route_table import Place, RouteTable

FLUSH_INTERVAL_S: Final = 0.1
SLOW_S: Final = 2.0
# A call is old at four times the slowest hundredth, within these bounds (health-monitor.md §4.1).
OLD_FACTOR: Final = 4.0
YOUNGEST_OLD_S: Final = 0.5
SOURCE: Final = "patchbay/sync-worker"
# As many failed effects are remembered, so that the retries of one count once.
REMEMBERED_EFFECTS: Final = 10_000
_FAILURES: Final[frozenset[Outcome]] = frozenset({"server_error", "timeout", "connect_error"})

Kind = Literal["final", "provisional", "retracted"]


# Not frozen, though nobody changes one: the frozen constructor is three times as slow, and runs twice per call.
@dataclass(slots=True)
class Call:
    """One call, without its duration: equal calls in a row form a run."""

    provider: str
    capability: str
    operation: str
    outcome: Outcome
    tenant: str
    credential: str
    probe: bool
    slow: bool = False
    kind: Kind = "final"
    mode: Mode = "live"

    @property
    def place(self) -> Place:
        """The route that it took."""
        return Place(self.provider, self.capability, self.mode)


@dataclass(slots=True)
class InFlight:
    """A call that has no answer yet; `counted` says that it was reported as failed already."""

    call: Call
    since: float
    old_at: float
    counted: bool = False


@dataclass(slots=True)
class _Run:
    call: Call
    count: int = 0
    seconds_sum: float = 0.0
    seconds_max: float = 0.0


@dataclass(slots=True)
class _Pending:
    runs: list[_Run] = field(default_factory=list)
    versions: set[ApiVersionSeen] = field(default_factory=set)
    last: Outcome = "success"


class Slowest:
    """The 99th percentile of a stream, followed without keeping it (stochastic approximation)."""

    __slots__ = ("_step", "value")

    def __init__(self, start: float) -> None:
        self.value = start
        self._step = start / 20

    def observe(self, seconds: float) -> None:
        """Take one duration in."""
        # In balance one in a hundred lies above, and moves the value as far up as all others together move it down.
        self.value = max(self.value + self._step * (0.99 if seconds > self.value else -0.01), 0.001)
        self._step = max(self.value / 20, 0.0005)


class CallReporter:
    """Collects calls of this worker and publishes them on `sync.calls.v1`."""

    def __init__(self, publisher: Publisher, routes: RouteTable, clock: Clock, *, worker: str) -> None:
        self._publisher = publisher
        self._routes = routes
        self._clock = clock
        self._worker = worker
        self._pending: defaultdict[Place, _Pending] = defaultdict(_Pending)
        self._in_flight: dict[int, InFlight] = {}
        self._flying: defaultdict[Place, int] = defaultdict(int)
        self._slowest: dict[tuple[str, str, Mode], Slowest] = {}
        self._failed_effects: OrderedDict[str, None] = OrderedDict()
        # Told of each business call, and of each that failed after a success.
        self.on_call: Callable[[Place], None] = lambda _place: None
        self.on_first_failure: Callable[[Place], None] = lambda _place: None
        self._urgent = asyncio.Event()
        self._flushing = asyncio.Lock()

    def started(self, call: Call, timeout_s: float) -> InFlight:
        """Note that a call is on its way; give the result to `ended` or `abandoned`. Does not block."""
        now = self._clock.monotonic()
        place = (call.provider, call.operation, call.mode)
        usual = self._slowest.get(place) or self._slowest.setdefault(place, Slowest(timeout_s / OLD_FACTOR))
        old_s = min(max(OLD_FACTOR * usual.value, YOUNGEST_OLD_S), timeout_s)
        flight = self._in_flight[id(call)] = InFlight(call, now, now + old_s)
        self._flying[call.place] += 1
        bound_gauge(IN_FLIGHT, call.provider).inc()
        return flight

    def abandoned(self, flight: InFlight) -> None:
        """Note that a call was cut off by ourselves, which is no evidence."""
        call = flight.call
        if self._in_flight.pop(id(call), None) is not None:
            self._flying[call.place] -= 1
            bound_gauge(IN_FLIGHT, call.provider).dec()

    def ended(self, flight: InFlight, outcome: Outcome, *, effect: str = "", version: ApiVersionSeen) -> float:
        """Note how a call ended and return its duration in seconds; retries of one failed effect count once."""
        self.abandoned(flight)
        seconds = self._clock.monotonic() - flight.since
        call, failed = flight.call, outcome in _FAILURES
        if not failed:
            self._slowest[call.provider, call.operation, call.mode].observe(seconds)
        if version.version or version.deprecation or version.sunset:
            self._pending[call.place].versions.add(version)
        if flight.counted:
            if failed:
                return seconds
            self._record(_as(call, "timeout", kind="retracted"), seconds)
        if failed and effect and not self._first_failure(effect):
            return seconds
        self._record(_as(call, outcome, slow=seconds > SLOW_S), seconds)
        return seconds

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_INTERVAL_S):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            self.count_old()
            await self.flush()

    def count_old(self) -> None:
        """Count calls in flight that are older than usual as failed, each once."""
        now = self._clock.monotonic()
        for flight in self._in_flight.values():
            if not flight.counted and now >= flight.old_at:
                flight.counted = True
                self._record(_as(flight.call, "timeout", kind="provisional"), now - flight.since)

    async def flush(self) -> None:
        """Publish what is pending; returns once it is on the broker, or dropped, and so is what an earlier flush took.

        One at a time, because a provider's reports must arrive in order.
        """
        async with self._flushing:
            taken: list[tuple[Place, list[_Run], set[ApiVersionSeen]]] = []
            for place, pending in self._pending.items():
                if pending.runs or pending.versions:
                    taken.append((place, pending.runs, pending.versions))
                    pending.runs, pending.versions = [], set()
            await asyncio.gather(*(self._publish(place, runs, versions) for place, runs, versions in taken))

    def _record(self, call: Call, seconds: float) -> None:
        place = call.place
        pending = self._pending[place]
        if not pending.runs or pending.runs[-1].call != call:
            pending.runs.append(_Run(call))
        run = pending.runs[-1]
        run.count += 1
        run.seconds_sum += seconds
        run.seconds_max = max(run.seconds_max, seconds)
        first_failure = pending.last == "success" and call.outcome in _FAILURES
        if first_failure:
            self._urgent.set()
        if call.outcome in _FAILURES or call.outcome == "success":
            pending.last = call.outcome
        if not call.probe:
            self.on_call(place)
            if first_failure:
                self.on_first_failure(place)

    def _first_failure(self, effect: str) -> bool:
        if effect in self._failed_effects:
            return False
        self._failed_effects[effect] = None
        if len(self._failed_effects) > REMEMBERED_EFFECTS:
            self._failed_effects.popitem(last=False)
        return True

    async def _publish(self, place: Place, runs: list[_Run], versions: set[ApiVersionSeen]) -> None:
        observed = CallsObserved(
            worker=self._worker,
            provider=place.provider,
            capability=place.capability,
            mode=place.mode,
            route_epoch=self._routes.epoch(place),
            observed_at=self._clock.now(),
            in_flight=self._flying[place],
            versions=tuple(sorted(versions, key=lambda one: one.version)),
            runs=tuple(_as_event(run) for run in runs),
        )
        envelope = Envelope(id=str(uuid7()), source=SOURCE, type=CallsObserved.TYPE, data=encode(observed))
        try:
            await self._publisher.publish(SYNC_CALLS, calls_key(*place), envelope)
        except Transient:
            counter(CALLS_UNREPORTED).inc(sum(run.count for run in runs))


def _as(call: Call, outcome: Outcome, *, slow: bool = False, kind: Kind = "final") -> Call:
    return Call(
        *(call.provider, call.capability, call.operation, outcome, call.tenant, call.credential, call.probe),
        slow=slow,
        kind=kind,
        mode=call.mode,
    )


def _as_event(run: _Run) -> CallRun:
    return CallRun(
        operation=run.call.operation,
        outcome=run.call.outcome,
        count=run.count,
        tenant=run.call.tenant,
        credential=run.call.credential,
        probe=run.call.probe,
        slow=run.call.slow,
        kind=run.call.kind,
        latency_ms_sum=run.seconds_sum * 1000,
        latency_ms_max=run.seconds_max * 1000,
    )
