"""What happens by itself: time passes for the routes, operators' wishes are read, our own network is checked.

Each is a background task of the service; none may end or hold up another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.mirror import MirrorOwner, MirrorSubscriber
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from health_monitor import metrics
from health_monitor.keeper import Keeper
from health_monitor.monitor import Monitor
from health_monitor.repository import operators

log = logger(__name__)

# A fifth of the shortest wait that the machine knows.
TICK_S: Final = 0.1
WISHES_S: Final = 1.0
CONTROL_S: Final = 1.0
CONTROL_TIMEOUT_S: Final = 1.0


class Ticker:
    """Lets time pass, and exports that it did."""

    def __init__(self, monitor: Monitor, keeper: Keeper, clock: Clock) -> None:
        self._monitor = monitor
        self._keeper = keeper
        self._clock = clock
        self._owner: MirrorOwner | None = None
        self._subscriber: MirrorSubscriber | None = None
        self._lost = 0

    def watch(self, owner: MirrorOwner, subscriber: MirrorSubscriber) -> None:
        """Export how the mirror is, too."""
        self._owner, self._subscriber = owner, subscriber

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self.tick()
            await self._clock.sleep(TICK_S)

    def tick(self) -> None:
        """Tick once."""
        self._keeper.take(self._monitor.tick())
        gauge(metrics.TICK).set(self._clock.now().timestamp())
        if self._owner is not None and self._subscriber is not None:
            gauge(metrics.MIRROR_AWAY).labels("owner").set(int(self._owner.away))
            gauge(metrics.MIRROR_AWAY).labels("subscriber").set(int(self._subscriber.away))
            counter(metrics.MIRROR_LOST).inc(self._owner.lost - self._lost)
            self._lost = self._owner.lost


class Wishes:
    """Reads what operators configured every second, and at once when `wake` is called. Old wishes outlive an outage."""

    def __init__(self, monitor: Monitor, database: Database) -> None:
        self._monitor = monitor
        self._database = database
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Read again now."""
        self._wake.set()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                await self.read()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("wishes_not_read", error=type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(WISHES_S):
                    await self._wake.wait()
            self._wake.clear()

    async def read(self) -> None:
        """Read once; raises what the database raises."""
        async with self._database.connection() as connection:
            self._monitor.configure(await operators.configuration(connection))


class ControlProbe:
    """Connects to targets that are no providers; when none answers twice in a row, the fault is ours."""

    def __init__(self, monitor: Monitor, targets: str, clock: Clock) -> None:
        self._monitor = monitor
        self._targets = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in targets.split(","))]
        self._clock = clock
        self._failed = 0

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await self.probe()
            await self._clock.sleep(CONTROL_S)

    async def probe(self) -> None:
        """Probe every target once."""
        answers = await asyncio.gather(*(_answers(*target) for target in self._targets))
        self._failed = 0 if any(answers) else self._failed + 1
        gauge(metrics.CONTROL_PROBE).set(int(any(answers)))
        self._monitor.control_probe(failed=self._failed > 1)


async def _answers(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONTROL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
