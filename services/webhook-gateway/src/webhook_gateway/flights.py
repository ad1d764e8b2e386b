"""Requests under way: how many, how many bytes they hold, how long each may still take, and whose turn it is.

One record per request does for slots, memory and deadlines: `asyncio.timeout` alone costs 3 µs each time, a twentieth
of a webhook. Must never refuse a critical delivery for what others hold: a quarter of everything is kept for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from chassis.clock import Clock
from chassis.telemetry.metrics import gauge
from webhook_gateway.metrics import IN_FLIGHT

# Of slots and bytes, for endpoints that may carry critical events.
RESERVED_SHARE: Final = 0.25
# Work that cannot be critical begins at most so often in one round of the event loop, 0.1 ms each: whatever the flood,
# a critical delivery that arrives finds no more than that before it. The others wait, read, for their turn.
STARTS_PER_ROUND: Final = 8
# So many of them are worked on at once. They move through the loop together, so a critical delivery waits behind all of
# them at each of its steps: few while there is critical traffic, else enough to fill the producer's batches.
TURNS: Final = 128
TURNS_BESIDE_CRITICAL: Final = 16
# How long after a critical request there is critical traffic.
CRITICAL_MEMORY_S: Final = 1.0
# A deadline passes up to this much late.
SWEEP_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much one process holds at once."""

    requests: int
    body_bytes: int


class Flight:
    """One request under way. `expired` says that its task was cancelled because the time was over."""

    __slots__ = ("critical", "due", "expired", "held", "task", "working")

    def __init__(self, task: asyncio.Task[object] | None, due: float, *, critical: bool) -> None:
        self.task = task
        self.due = due
        self.critical = critical
        self.held = 0
        self.expired = False
        self.working = False


class Flights:
    """All requests under way in this process. `run` must be running for deadlines to pass."""

    def __init__(self, bounds: Bounds, clock: Clock) -> None:
        self._clock = clock
        self._bounds = {
            True: bounds,
            False: Bounds(int(bounds.requests * (1 - RESERVED_SHARE)), int(bounds.body_bytes * (1 - RESERVED_SHARE))),
        }
        self._flights: set[Flight] = set()
        self._working = 0
        self._started = 0
        self._critical_at = -CRITICAL_MEMORY_S
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._flights)

    def enter(self, limit_s: float, *, critical: bool) -> Flight | None:
        """Take a slot for the current task, which then has `limit_s` seconds; None when there is no slot."""
        if len(self._flights) >= self._bounds[critical].requests:
            return None
        now = self._clock.monotonic()
        if critical:
            self._critical_at = now
        flight = Flight(asyncio.current_task(), now + limit_s, critical=critical)
        self._flights.add(flight)
        return flight

    async def turn(self, flight: Flight) -> None:
        """Wait until a flight may work: at once for what may be critical, in order of arrival for the rest."""
        if flight.critical:
            return
        if self._waiting or not self._has_turn():
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                # The turn may have come in the same round in which the time was over.
                if not place.cancelled():
                    self._finish()
                raise
        else:
            self._start()
        flight.working = True

    def _has_turn(self) -> bool:
        quiet = self._clock.monotonic() - self._critical_at >= CRITICAL_MEMORY_S
        return self._started < STARTS_PER_ROUND and self._working < (TURNS if quiet else TURNS_BESIDE_CRITICAL)

    def _start(self) -> None:
        self._working += 1
        self._started += 1
        if self._started == 1:
            asyncio.get_running_loop().call_soon(self._next_round)

    def _finish(self) -> None:
        self._working -= 1
        if self._waiting and not self._started:
            self._next_round()

    def _next_round(self) -> None:
        """Begin a round of the event loop: whoever has waited longest starts first."""
        self._started = 0
        while self._waiting and self._has_turn():
            place = self._waiting.popleft()
            if not place.done():
                self._start()
                place.set_result(None)

    def extend(self, flight: Flight, limit_s: float) -> None:
        """Give a flight `limit_s` seconds from now on."""
        flight.due = self._clock.monotonic() + limit_s

    def hold(self, flight: Flight, size: int) -> bool:
        """Take `size` bytes; False, and nothing taken, when there are none."""
        if self.held_bytes + size > self._bounds[flight.critical].body_bytes:
            return False
        flight.held += size
        self.held_bytes += size
        return True

    def leave(self, flight: Flight) -> None:
        """Give back the slot, the bytes and the turn."""
        self._flights.discard(flight)
        if flight.working:
            flight.working = False
            self._finish()
        self.held_bytes -= flight.held
        flight.held = 0

    def landed(self, flight: Flight) -> bool:
        """Tell, in the handler of a `CancelledError`, whether the deadline caused it; the task then goes on."""
        if not flight.expired:
            return False
        flight.expired = False
        return flight.task is not None and flight.task.uncancel() == 0

    def sweep(self) -> None:
        """Cancel what is over its time."""
        now = self._clock.monotonic()
        for flight in [flight for flight in self._flights if flight.due <= now and not flight.expired]:
            flight.expired = True
            if flight.task is not None:
                flight.task.cancel()

    async def run(self) -> None:
        """Sweep and publish the gauges until cancelled; a gauge for each request would cost a microsecond."""
        while True:
            await self._clock.sleep(SWEEP_S)
            self.sweep()
            gauge(IN_FLIGHT).labels("requests").set(len(self._flights))
            gauge(IN_FLIGHT).labels("body_bytes").set(self.held_bytes)
