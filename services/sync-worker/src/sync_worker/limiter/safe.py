"""What a worker may spend while the store is away or has just lost its state: a small fixed share of each limit.

Must never let more through than 0.9 of a limit divided by the workers that were seen (health-monitor.md §4.7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from contracts.events.health import QuotaWindow
from sync_worker.limiter.policies import ISSUED, Bucket, CallPath
from sync_worker.limiter.store import window_id

SHARE: Final = 0.9
_MICRO: Final = 1_000_000


@dataclass(slots=True)
class _Spent:
    """Use of one window without the store: GCRA's due time, and the units of the store's window `index`."""

    due: float = 0.0
    index: int = -1
    units: float = 0.0
    owed: float = 0.0


class SafeShare:
    """Paces each window of a path. `clock_offset` turns monotonic seconds into the store's.

    `held` are the slots that this worker holds, by concurrent bucket; whoever gives slots keeps it.
    """

    def __init__(self, held: Mapping[str, float]) -> None:
        self._held = held
        self._spent: dict[tuple[str, str], _Spent] = {}
        self._counts: dict[tuple[str, str], tuple[int, float]] = {}
        self._phases: dict[tuple[str, str], float] = {}
        self.clock_offset = 0.0

    def saw(self, path: CallPath, known: tuple[str, ...]) -> None:
        """Remember what the store last said of the path's counted windows."""
        at = 0
        for bucket in path.buckets:
            for window in bucket.windows:
                if window.shape == "fixed" and at < len(known):
                    index, count, *turns = known[at].split(":")
                    name = (bucket.name, window_id(window.shape, window.seconds))
                    self._counts[name] = (int(index), float(count))
                    # Where the provider's windows turn, as far as the store knows it.
                    self._phases[name] = float(turns[0]) / _MICRO if turns else 0.0
                at += 1

    def wait_s(self, path: CallPath, cost: float, now: float, workers: int) -> float:
        """Return 0 and count the call when every window lets it pass, else the seconds until it may be tried again."""
        windows = [(bucket, window) for bucket in path.buckets for window in bucket.windows]
        wait = max((self._wait(b, w, cost, now, workers) for b, w in windows), default=0.0)
        if wait > 0:
            return wait
        for bucket, window in windows:
            if window.shape == "concurrent":
                continue
            spent = self._of(bucket, window)
            spent.due = max(spent.due, now) + cost * _gap(window, workers)
            spent.units += cost
            spent.owed += cost
        return 0.0

    def settle(self, path: CallPath, now: float, workers: int) -> list[float]:
        """Return by window the units that the store has not counted yet, and forget them."""
        owed: list[float] = []
        for bucket in path.buckets:
            for window in bucket.windows:
                spent = self._spent.get((bucket.name, window_id(window.shape, window.seconds)))
                if spent is None or spent.owed <= 0:
                    owed.append(0.0)
                    continue
                if window.shape == "fixed":
                    owed.append(spent.units if spent.index == self._index(bucket, window, now) else 0.0)
                else:
                    # What was spent longer ago has flowed off in the meantime.
                    owed.append(min(spent.owed, max(0.0, (spent.due - now) / _gap(window, workers))))
                spent.owed = spent.units = 0.0
        return owed

    def owe(self, path: CallPath, owed: Sequence[float]) -> None:
        """Take back what `settle` returned, because the store may not have heard of it."""
        windows = [(bucket, window) for bucket in path.buckets for window in bucket.windows]
        for (bucket, window), units in zip(windows, owed, strict=False):
            if units > 0:
                spent = self._of(bucket, window)
                spent.owed += units
                spent.units += units

    def _wait(self, bucket: Bucket, window: QuotaWindow, cost: float, now: float, workers: int) -> float:
        if window.shape == "concurrent":
            return 0.0 if self._held.get(bucket.name, 0.0) + cost <= max(1.0, window.limit * SHARE / workers) else 0.1
        spent = self._of(bucket, window)
        gap = _gap(window, workers)
        burst = max(cost, window.burst * SHARE / workers) if window.shape == "gcra" else cost
        wait = max(0.0, spent.due + (cost - burst) * gap - now)
        if window.shape == "fixed":
            index = self._index(bucket, window, now)
            if spent.index != index:
                spent.index, spent.units, spent.owed = index, 0.0, 0.0
            seen = self._counts.get((bucket.name, window_id(window.shape, window.seconds)))
            if seen is not None and seen[0] == index:
                left = max(0.0, window.limit * ISSUED - seen[1]) * SHARE / workers
                if spent.units + cost > left:
                    end = (index + 1) * window.seconds + self._phase(bucket, window) - (now + self.clock_offset)
                    wait = max(wait, end, 0.001)
        return wait

    def _of(self, bucket: Bucket, window: QuotaWindow) -> _Spent:
        return self._spent.setdefault((bucket.name, window_id(window.shape, window.seconds)), _Spent())

    def _phase(self, bucket: Bucket, window: QuotaWindow) -> float:
        return self._phases.get((bucket.name, window_id(window.shape, window.seconds)), 0.0)

    def _index(self, bucket: Bucket, window: QuotaWindow, now: float) -> int:
        return math.floor((now + self.clock_offset - self._phase(bucket, window)) / window.seconds)


def _gap(window: QuotaWindow, workers: int) -> float:
    return window.seconds / (window.limit * SHARE / workers)
