"""Probes with real credentials: a cheap read shows whether a provider works, also when nobody else calls it.

A connection is asked for the routes of its own mode. As often as the health monitor wants, and three at once when it
begins to want a burst, when the first call of a quiet provider fails (health-monitor.md §4.3) or two calls in a row of
a busy one. Must never be the reason that a provider's quota runs out: probes have a class of their own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from contracts.errors import Invalid
from contracts.modes import MODES
from providers import registry
from providers.provider import Provider
from providers.sdk import Account
from sync_worker.models import Connection
from sync_worker.outbound.path import Path, Plan
from sync_worker.outbound.route_table import Eagerness, Place, RouteTable
from sync_worker.repository import connections

TICK_S: Final = 0.1
# Seconds between probes that the health monitor asks for by a word.
INTERVALS_S: Final[dict[Eagerness, float]] = {"idle": 5.0, "burst": 1 / 3, "canary": 1.0}
BURST: Final = 3
BURST_GAP_S: Final = 0.1
# Above this many calls in a second the calls themselves tell soon enough.
BUSY_CALLS: Final = 4
REFRESH_S: Final = 30.0
# These say something about the connection that asked and nothing about the provider.
_CANNOT_ASK: Final = ("ours", "no_connection", "credential", "missing_scope")


class Prober:
    """Probes every provider that somebody has connected, by mode, until cancelled; `uniform` spreads the first ones."""

    def __init__(
        self,
        database: Database,
        path: Path,
        routes: RouteTable,
        clock: Clock,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._database = database
        self._path = path
        self._routes = routes
        self._clock = clock
        self._uniform = uniform
        # Who may ask, the one whose turn it is first.
        self._places: dict[Place, deque[Connection]] = {}
        self._due: dict[Place, float] = {}
        self._wanted: dict[Place, Eagerness] = {}
        self._recent: defaultdict[Place, deque[float]] = defaultdict(lambda: deque(maxlen=BUSY_CALLS))
        self._bursting: dict[Place, asyncio.Task[None]] = {}
        # How many candidates in a row could not ask.
        self._misses: dict[Place, int] = {}
        self._refreshed = float("-inf")

    def saw_call(self, place: Place) -> None:
        """Note a call of somebody's business. Does not block."""
        self._recent[place].append(self._clock.monotonic())

    def saw_failure(self, place: Place) -> None:
        """Start a burst at once when the first failure comes from a quiet provider. Does not block."""
        recent = self._recent[place]
        busy = len(recent) == BUSY_CALLS and self._clock.monotonic() - recent[0] < 1
        if not busy:
            self._start_burst(place)

    def saw_doubt(self, place: Place) -> None:
        """Ask at once where this worker's last calls failed, because its next ones wait for what is found out.

        Does not block.
        """
        self._start_burst(place)

    async def run(self) -> None:
        """Probe what is due."""
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                now = self._clock.monotonic()
                if now - self._refreshed >= REFRESH_S:
                    await self._refresh(now)
                for place in [place for place, due in self._due.items() if due <= now]:
                    self._due[place] = now + self._interval_s(place)
                    task = asyncio.create_task(self._probe(place))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await self._clock.sleep(TICK_S)
        finally:
            left = [*running, *self._bursting.values()]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def saw_route(self, place: Place, wanted: Eagerness) -> None:
        """Probe at once where the health monitor has just become eager. Does not block.

        A suspicion lasts for two seconds only, and calls go on failing until probes have spoken.
        """
        if place not in self._places or wanted == self._wanted.get(place, "idle"):
            return
        self._wanted[place] = wanted
        next_at = self._clock.monotonic() + INTERVALS_S[wanted]
        if wanted == "burst":
            self._start_burst(place)
            self._due[place] = next_at
        else:
            self._due[place] = min(self._due[place], next_at)

    def _start_burst(self, place: Place) -> None:
        if place in self._places and place not in self._bursting:
            task = self._bursting[place] = asyncio.create_task(self._burst(place))
            task.add_done_callback(lambda _: self._bursting.pop(place, None))

    def _interval_s(self, place: Place) -> float:
        route = self._routes.known().get(place)
        return INTERVALS_S[route.probe if route else "idle"]

    async def _burst(self, place: Place) -> None:
        async with asyncio.TaskGroup() as probes:
            for number in range(BURST):
                if number:
                    await self._clock.sleep(BURST_GAP_S)
                probes.create_task(self._probe(place))

    async def _refresh(self, now: float) -> None:
        """Read which providers have a connection that can be asked; the oldest one of each asks."""
        try:
            async with self._database.connection() as database:
                found = [one for mode in MODES for one in await connections.live(database, None, _probed(), mode)]
        except Exception as error:
            if not is_unavailable(error):
                raise
            return
        self._refreshed = now
        places: defaultdict[Place, deque[Connection]] = defaultdict(deque)
        for one in found:
            for capability in registry.get(one.provider).manifest.capabilities:
                places[Place(one.provider, capability, one.mode)].append(one)
        self._places = dict(places)
        # Starts are spread, so that a restart does not ask everybody at once.
        self._due = {place: self._due.get(place, now + self._uniform(0, INTERVALS_S["idle"])) for place in places}

    async def _probe(self, place: Place) -> None:
        candidates = self._places.get(place)
        if not candidates:
            return
        connection = candidates[0]
        try:
            result = await self._path.call(_plan(connection, place.capability))
        except Exception as error:
            if not is_unavailable(error):
                raise
            return
        if result.meaning not in _CANNOT_ASK:
            self._misses.pop(place, None)
            return
        # Nothing was learned of the provider: the next one's turn, at once unless all of them had theirs.
        candidates.rotate(-1)
        self._misses[place] = self._misses.get(place, 0) + 1
        if self._misses[place] % len(candidates):
            self._due[place] = min(self._due.get(place, 0.0), self._clock.monotonic() + BURST_GAP_S)


def _plan(connection: Connection, capability: str) -> Plan:
    provider = registry.get(connection.provider)
    health = provider.manifest.health
    return Plan(
        provider=provider,
        connection=connection.id,
        tenant=connection.tenant,
        capability=capability,
        operation="probe",
        build=lambda account: _request(provider, account),
        timeout_s=health.probe.timeout_ms / 1000 if health else 1.0,
        probe=True,
    )


def _request(provider: Provider, account: Account) -> Any:
    asked = provider.probe(account)
    if asked is None:
        raise Invalid("no_probe", f"{provider.slug} declares no cheap read")
    return asked


def _probed() -> list[str]:
    return [one.slug for one in registry.all_providers() if one.manifest.health is not None]
