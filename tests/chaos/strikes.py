"""What is broken while commands flow: workers, clock, stores, providers, each in a rhythm of its own until the end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from chassis.testing.processes import PrivateServer, Process
from tests.conftest import Platform
from tools.dev.packages import faketime_library

Fault = Mapping[str, Any]


def spoil(platform: Platform, provider: str, faults: Sequence[Fault]) -> None:
    """Replace a provider's faults."""
    url = f"{platform.env['SANDBOX_URL']}/_control/faults/{provider}"
    platform.api.delete(url)
    for fault in faults:
        assert platform.api.post(url, json=fault).status_code == 201


@dataclass
class Replica:
    """A further worker of the fleet."""

    platform: Platform
    instance: str
    process: Process | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.process = self.platform.stack.join("sync-worker", self.instance, self.environment())

    def crash(self) -> None:
        """Kill it in the middle of what it does, and start it again."""
        if self.process is not None:
            self.process.kill()
        self.start()

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self.process is not None:
            self.process.stop(30)

    def environment(self) -> Mapping[str, str]:
        """Return what it is started with beside what all of them are."""
        return {}


@dataclass
class SkewedReplica(Replica):
    """A worker whose clock is an hour off; only the wall clock, as on a machine whose clock is set wrong."""

    folder: Path = field(kw_only=True)
    offset_s: int = 3600

    def start(self) -> None:
        """Start it; an AssertionError says what is not installed."""
        self._set()
        super().start()

    def jump(self) -> None:
        """Set the clock to the other side of the truth, while the worker runs."""
        self.offset_s = -self.offset_s
        self._set()

    def environment(self) -> Mapping[str, str]:
        """Return what makes the clock wrong."""
        library = faketime_library()
        assert library is not None, "Debian's package faketime is missing: make setup"
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def _set(self) -> None:
        written = self.folder / "clock.new"
        written.write_text(f"{self.offset_s:+d}\n")
        written.replace(self.folder / "clock")


@dataclass(frozen=True)
class Rhythm:
    """When a strike comes first, and how often then."""

    first_s: float
    every_s: float


# A worker every 10 s and PostgreSQL every 20 s are what the platform promises to survive; the first strikes are spread.
# "worker" is the first two in turn, "skewed worker" the one with the wrong clock.
RHYTHMS: Mapping[str, Rhythm] = {
    "worker": Rhythm(5, 10),
    # A provider that goes away again and again is let back more and more slowly, so each has its turn every 20 min.
    "outage": Rhythm(8, 300),
    "postgres": Rhythm(14, 20),
    "clock": Rhythm(18, 15),
    "redis": Rhythm(22, 40),
    "skewed worker": Rhythm(27, 30),
    "broker": Rhythm(33, 60),
}
REDIS_AWAY_S = 5.0


class Strikes:
    """Breaks one thing after the other; `done` counts what was broken and is there again.

    `faults` are what providers suffer beside outages of `outage_s`, which they have in turn.
    """

    def __init__(
        self, platform: Platform, skewed: SkewedReplica, faults: Mapping[str, Sequence[Fault]], *, outage_s: float
    ) -> None:
        self.done: Counter[str] = Counter()
        self._all_once = asyncio.Event()
        self._platform = platform
        self._skewed = skewed
        self._second = Replica(platform, "2")
        self._crashes = cycle((self._crash_first, self._second.crash))
        self._faults = faults
        self._outage_s = outage_s
        self._in_turn: Iterator[str] = cycle(faults)

    @asynccontextmanager
    async def going_on(self) -> Any:
        """Strike for as long as the block lasts; what is being broken then is mended before it ends."""
        for provider, faults in self._faults.items():
            await asyncio.to_thread(spoil, self._platform, provider, faults)
        for replica in (self._skewed, self._second):
            await asyncio.to_thread(replica.start)
        over = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                for what, rhythm in RHYTHMS.items():
                    tasks.create_task(self._repeat(what, rhythm, over))
                try:
                    yield
                finally:
                    over.set()
        finally:
            await asyncio.to_thread(self._platform.stack.start, "sync-worker")
            for replica in (self._skewed, self._second):
                await asyncio.to_thread(replica.stop)
            for provider in self._faults:
                await asyncio.to_thread(spoil, self._platform, provider, [])

    async def all_once(self) -> None:
        """Wait until everything was broken once."""
        await self._all_once.wait()

    async def _repeat(self, what: str, rhythm: Rhythm, over: asyncio.Event) -> None:
        strike = self._strike(what)
        due = time.monotonic() + rhythm.first_s
        while not await _set_before(over, due):
            await strike()
            self.done[what] += 1
            if set(self.done) == set(RHYTHMS):
                self._all_once.set()
            # What takes longer than its rhythm to come back still has time to work.
            due = max(due + rhythm.every_s, time.monotonic() + rhythm.every_s / 2)

    def _strike(self, what: str) -> Callable[[], Awaitable[object]]:
        stack = self._platform.stack
        known: dict[str, Callable[[], Awaitable[object]]] = {
            "worker": lambda: asyncio.to_thread(next(self._crashes)),
            "outage": self._outage,
            "clock": lambda: asyncio.to_thread(self._skewed.jump),
            "skewed worker": lambda: asyncio.to_thread(self._skewed.crash),
            "postgres": lambda: _restart(stack.postgres),
            "broker": lambda: _restart(stack.kafka),
            "redis": lambda: _restart(stack.redis, REDIS_AWAY_S),
        }
        return known[what]

    def _crash_first(self) -> None:
        self._platform.stack.kill("sync-worker")
        self._platform.stack.start("sync-worker")

    async def _outage(self) -> None:
        provider = next(self._in_turn)
        await asyncio.to_thread(spoil, self._platform, provider, [{"mode": "outage"}])
        await asyncio.sleep(self._outage_s)  # lint-skip: PB011 the length of the outage is what is tested
        await asyncio.to_thread(spoil, self._platform, provider, self._faults[provider])


async def _restart(server: PrivateServer, away_s: float = 0.0) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(away_s)  # lint-skip: PB011 how long it is away is what is tested
    await asyncio.to_thread(server.start)


async def _set_before(event: asyncio.Event, due: float) -> bool:
    """Wait until an instant of the monotonic clock; True at once when the event is set."""
    try:
        async with asyncio.timeout(max(due - time.monotonic(), 0)):
            return await event.wait()
    except TimeoutError:
        return False
