"""How far the consumers of bulk are behind, and what may come in meanwhile (ledger role).

Accept rate and drain rate obey one rule: what waits longer than wanted is admitted no faster than it is worked off.
Must never slow critical or standard deliveries; the decision is about bulk alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from chassis.clock import Clock
from chassis.kafka.backlog import Backlog, backlog_meter
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.errors import Transient
from contracts.topics import GATEWAY_EVENTS, Lane
from webhook_gateway.metrics import ADMISSION_LAG

log = logger(__name__)

MEASURE_S: Final = 2.0
# Bulk that waits longer than this is slowed; it is free again once it waits less than a third of that.
SLOW_ABOVE_S: Final = 60.0
FREE_BELOW_S: Final = 20.0
# Ten minutes behind, more bulk only makes it worse: nothing comes in until it waits less.
SHUT_ABOVE_S: Final = 600.0
# Slower than it drains, so that the backlog shrinks.
SLOW_FACTOR: Final = 0.8
# A rate is worth telling the gateways when it changed by this much.
WORTH_TELLING: Final = 0.2
# Weight of the newest drain rate; two seconds are too short to believe one measurement.
SMOOTHING: Final = 0.3

Tell = Callable[[float | None, str], Awaitable[None]]


class DrainRule:
    """From measurements to what bulk may come in per second, all gateways together; None is no limit. Pure."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, Backlog]] = {}
        self._rates: dict[str, float] = {}
        self.limit: float | None = None
        self.waits_s = 0.0

    def decide(self, now: float, backlogs: Mapping[str, Backlog]) -> float | None:
        """Take the newest measurement of every group and return the limit that holds from now on."""
        slowest_s, slowest_rate = 0.0, 0.0
        for group, backlog in backlogs.items():
            rate = self._drain_rate(group, now, backlog)
            waits_s = backlog.waiting / rate if rate > 0 else (SHUT_ABOVE_S if backlog.waiting else 0.0)
            if waits_s >= slowest_s:
                slowest_s, slowest_rate = waits_s, rate
        self.waits_s = slowest_s
        if slowest_s < FREE_BELOW_S or (self.limit is None and slowest_s <= SLOW_ABOVE_S):
            self.limit = None
        elif slowest_s > SHUT_ABOVE_S:
            self.limit = 0.0
        else:
            self.limit = round(slowest_rate * SLOW_FACTOR, 1)
        return self.limit

    def _drain_rate(self, group: str, now: float, backlog: Backlog) -> float:
        before = self._last.get(group)
        self._last[group] = (now, backlog)
        if before is None or now <= before[0]:
            # Until there is a second measurement nobody is judged: a rate so high that nothing seems to wait.
            return float(max(backlog.waiting, 1))
        newest = max(0, backlog.committed - before[1].committed) / (now - before[0])
        known = self._rates.get(group, newest)
        # A group without work drains nothing, which says nothing about how fast it could.
        rate = known if backlog.waiting == 0 else (1 - SMOOTHING) * known + SMOOTHING * newest
        self._rates[group] = rate
        return rate


def worth_telling(old: float | None, new: float | None) -> bool:
    """Tell whether a change of the limit is worth a record."""
    if old is None or new is None or old == 0 or new == 0:
        return old != new
    return abs(new - old) / old > WORTH_TELLING


class DrainWatch:
    """Measures the groups that read bulk, and tells when the limit changes."""

    def __init__(self, bootstrap: str, groups: Sequence[str], clock: Clock, tell: Tell) -> None:
        self._bootstrap = bootstrap
        self._groups = groups
        self._clock = clock
        self._tell = tell
        self._rule = DrainRule()
        self._told: float | None = None

    async def run(self) -> None:
        """Measure until cancelled; the last decision stands while the broker is away."""
        while True:
            try:
                async with backlog_meter(self._bootstrap, GATEWAY_EVENTS[Lane.BULK]) as meter:
                    while True:
                        await self._decide(await meter.measure(self._groups))
                        await self._clock.sleep(MEASURE_S)
            except Transient as error:
                log.warning("drain_not_measured", code=error.code)
                await self._clock.sleep(MEASURE_S)

    async def _decide(self, backlogs: Mapping[str, Backlog]) -> None:
        limit = self._rule.decide(self._clock.monotonic(), backlogs)
        gauge(ADMISSION_LAG).set(self._rule.waits_s)
        if worth_telling(self._told, limit):
            await self._tell(limit, f"bulk waits {self._rule.waits_s:.0f} s for its slowest consumer")
            self._told = limit
