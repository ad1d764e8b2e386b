"""When the limiter must look at a pool again: one sleeping task for all of them, since nobody polls."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator

from chassis.clock import Clock
from sync_worker.limiter.pools import Pool


class Timers:
    """Pools by the instant (monotonic seconds) at which something is due; sets `wake` for the earliest."""

    def __init__(self, clock: Clock, wake: asyncio.Event) -> None:
        self._clock = clock
        self._wake = wake
        self._heap: list[tuple[float, int, Pool]] = []
        self._sequence = 0
        self._alarm: tuple[float, asyncio.Task[None]] | None = None

    def add(self, at: float, pool: Pool) -> None:
        """Remember a pool; a pool may be there many times."""
        self._sequence += 1
        heapq.heappush(self._heap, (at, self._sequence, pool))

    def due(self, now: float) -> Iterator[Pool]:
        """Remove and yield the pools that are due."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]

    def arm(self) -> None:
        """See to it that `wake` is set when the earliest pool is due."""
        if not self._heap:
            return
        at = self._heap[0][0]
        if self._alarm is not None and not self._alarm[1].done():
            if self._alarm[0] <= at:
                return
            self._alarm[1].cancel()
        self._alarm = (at, asyncio.create_task(self._ring(at)))

    def stop(self) -> None:
        """End the sleeping task."""
        if self._alarm is not None:
            self._alarm[1].cancel()

    async def _ring(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.monotonic()))
        self._wake.set()
