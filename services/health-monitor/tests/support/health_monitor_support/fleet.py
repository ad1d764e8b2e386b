"""A monitor with the calls of a small fleet."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any, Self

from chassis.testing.clock import ManualClock
from contracts.events.health import RouteChanged
from contracts.events.sync import CallsObserved, Outcome
from contracts.modes import Mode
from contracts.topics import SYNC_CALLS
from health_monitor.monitor import Decision, Monitor
from health_monitor.statistics import RouteKey
from health_monitor_support.calls import one_call

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL = range(SYNC_CALLS.partitions)


class Fleet:
    """A monitor that owns everything, and the calls of two workers and two tenants."""

    def __init__(self, generation: int = 1, **options: Any) -> None:
        self.clock = ManualClock(START)
        self.monitor = Monitor(self.clock, dice=Random(1), **options)
        self.monitor.own(ALL, generation)
        self.published: list[Decision] = []

    def calls(
        self, provider: str, outcome: Outcome, count: int = 1, *, mode: Mode = "live", probe: bool = False
    ) -> Self:
        for number in range(count):
            run = one_call(outcome, f"t{number % 2}", probe=probe)
            report = CallsObserved(
                worker=f"w{number % 2}",
                provider=provider,
                capability="sms",
                mode=mode,
                observed_at=self.clock.now(),
                runs=(run,),
            )
            self.published += self.monitor.observe(report)
        return self

    def passes(self, seconds: float = 0.1) -> Self:
        self.clock.advance(seconds)
        self.published += self.monitor.tick()
        return self

    def record(self, provider: str, mode: Mode = "live") -> RouteChanged:
        return self.monitor.seen[RouteKey(provider, "sms", mode)]
