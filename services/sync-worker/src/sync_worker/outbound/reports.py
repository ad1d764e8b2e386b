"""Outcomes of provider calls on their way to the health monitor: run lengths, flushed within 100 ms.

A first failure after a success is flushed at once: reporting delay is part of the detection time (health-monitor.md
§2.2). Must never hold up a call; a report that the broker does not take is counted and dropped.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.telemetry.metrics import counter
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.sync import CallRun, CallsObserved, Outcome
from contracts.ids import uuid7
from contracts.topics import SYNC_CALLS
from sync_worker.metrics import CALLS_UNREPORTED
from sync_worker.outbound.route_table import RouteTable

FLUSH_INTERVAL_S: Final = 0.1
SOURCE: Final = "patchbay/sync-worker"


@dataclass(frozen=True, slots=True)
class Call:
    """One finished call, without its duration: equal calls in a row form a run."""

    provider: str
    capability: str
    operation: str
    outcome: Outcome
    tenant: str
    credential: str
    probe: bool


@dataclass(slots=True)
class _Run:
    call: Call
    count: int = 0
    seconds_sum: float = 0.0
    seconds_max: float = 0.0


@dataclass(slots=True)
class _Pending:
    runs: list[_Run] = field(default_factory=list)
    last: Outcome = "success"


class CallReporter:
    """Collects calls of this worker and publishes them on `sync.calls.v1`."""

    def __init__(self, publisher: Publisher, routes: RouteTable, clock: Clock, *, worker: str) -> None:
        self._publisher = publisher
        self._routes = routes
        self._clock = clock
        self._worker = worker
        self._pending: defaultdict[tuple[str, str], _Pending] = defaultdict(_Pending)
        self._urgent = asyncio.Event()
        self._flushing = asyncio.Lock()

    def record(self, call: Call, seconds: float) -> None:
        """Note one call. Does not block."""
        pending = self._pending[call.provider, call.capability]
        if not pending.runs or pending.runs[-1].call != call:
            pending.runs.append(_Run(call))
        run = pending.runs[-1]
        run.count += 1
        run.seconds_sum += seconds
        run.seconds_max = max(run.seconds_max, seconds)
        if pending.last == "success" and call.outcome != "success":
            self._urgent.set()
        pending.last = call.outcome

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_INTERVAL_S):
                    await self._urgent.wait()
            except TimeoutError:
                pass
            self._urgent.clear()
            await self.flush()

    async def flush(self) -> None:
        """Publish what is pending; returns once it is on the broker, or dropped, and so is what an earlier flush took.

        One at a time, because a provider's reports must arrive in order.
        """
        async with self._flushing:
            taken = [(place, pending.runs) for place, pending in self._pending.items() if pending.runs]
            for place, _ in taken:
                self._pending[place].runs = []
            await asyncio.gather(*(self._publish(*place, runs) for place, runs in taken))

    async def _publish(self, provider: str, capability: str, runs: list[_Run]) -> None:
        observed = CallsObserved(
            worker=self._worker,
            provider=provider,
            capability=capability,
            route_epoch=self._routes.epoch(provider, capability),
            observed_at=self._clock.now(),
            runs=tuple(_as_event(run) for run in runs),
        )
        envelope = Envelope(id=str(uuid7()), source=SOURCE, type=CallsObserved.TYPE, data=encode(observed))
        try:
            await self._publisher.publish(SYNC_CALLS, f"{provider}:{capability}", envelope)
        except Transient:
            counter(CALLS_UNREPORTED).inc(sum(run.count for run in runs))


def _as_event(run: _Run) -> CallRun:
    return CallRun(
        operation=run.call.operation,
        outcome=run.call.outcome,
        count=run.count,
        tenant=run.call.tenant,
        credential=run.call.credential,
        probe=run.call.probe,
        latency_ms_sum=run.seconds_sum * 1000,
        latency_ms_max=run.seconds_max * 1000,
    )
