"""Never more than the limit, plus what workers hold: on every window, with workers that die and a store that forgets.

The real script runs in a real Redis with the test's time, the real limiters run on a clock that the test moves.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chassis.redis import Redis, RedisError, connect
from chassis.testing.clock import ManualClock
from contracts.errors import Transient
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.store import Ask, Notice, QuotaStore, Reply
from sync_worker.limiter.usage import RetryBudgets, UsageBook

pytestmark = pytest.mark.integration

BASE_US = 1_800_000_000_000_000
CLASSES: tuple[CallClass, ...] = ("critical", "interactive", "bulk", "probe")
RUNS = itertools.count()

Step = tuple[Any, ...]


class SkewedClock(ManualClock):
    """One worker's clock: monotonic seconds are everybody's, the wall clock may be an hour wrong."""

    def __init__(self, shared: ManualClock) -> None:
        super().__init__()
        self._shared = shared
        self.skew = timedelta()

    def now(self) -> datetime:
        return self._shared.now() + self.skew

    def monotonic(self) -> float:
        return self._shared.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._shared.sleep(seconds)


class WatchedStore(QuotaStore):
    """Knows whether a round trip is under way, and the largest lease; can be cut off."""

    def __init__(self, redis: Redis, worker: str, time_us: Callable[[], int]) -> None:
        # A busy machine must not look like a lost store.
        super().__init__(redis, worker, timeout_s=10, time_us=time_us)
        self.busy = 0
        self.largest = 0.0
        self.cut_off = False

    async def exchange(self, asks: Sequence[Ask], notices: Sequence[Notice] = ()) -> list[Reply]:
        if self.cut_off:
            raise RedisError("cut off")
        self.busy += 1
        try:
            replies = await super().exchange(asks, notices)
        finally:
            self.busy -= 1
        self.largest = max([self.largest, *(reply.granted for reply in replies)])
        return replies


@dataclass
class Worker:
    """One process: its limiter, and what runs in it."""

    limiter: Limiter
    store: WatchedStore
    book: PolicyBook
    clock: SkewedClock
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)


class Fleet:
    """Workers on one Redis and one time; `admitted` are the instants at which calls were let through."""

    def __init__(self, redis: Redis, windows: tuple[QuotaWindow, ...], size: int) -> None:
        self.redis = redis
        self.clock = ManualClock()
        self.provider = f"p{next(RUNS)}"
        self.policy = QuotaPolicy(
            provider=self.provider, bucket="account", windows=windows, version=1, decided_at=self.clock.now()
        )
        self.admitted: list[float] = []
        self.largest = 0.0
        self.size = size
        self.names = itertools.count()
        self.workers = [self.start() for _ in range(size)]

    def start(self) -> Worker:
        clock = SkewedClock(self.clock)
        store = WatchedStore(self.redis, f"w{next(self.names)}", lambda: BASE_US + round(self.clock.monotonic() * 1e6))
        book = PolicyBook()
        book.put(self.policy)
        limiter = Limiter(store, clock, UsageBook(clock, "w"), RetryBudgets(clock.monotonic), workers=self.size)
        worker = Worker(limiter, store, book, clock)
        worker.tasks.add(asyncio.create_task(limiter.run()))
        return worker

    async def call(self, worker: Worker, call_class: CallClass, patience_s: float) -> None:
        path = worker.book.path(self.provider, "c")
        deadline = self.clock.monotonic() + patience_s
        try:
            grant = await worker.limiter.take(path, call_class, 1.0, deadline)
        except Transient:
            return
        self.admitted.append(self.clock.monotonic())
        grant.release()

    async def crash(self, at: int) -> None:
        worker = self.workers[at % len(self.workers)]
        await self.end(worker)
        self.workers[at % len(self.workers)] = self.start()

    async def end(self, worker: Worker) -> None:
        self.largest = max(self.largest, worker.store.largest)
        for task in worker.tasks:
            task.cancel()
        await asyncio.gather(*worker.tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Let everything happen that happens without time passing."""
        calm = 0
        while calm < 8:
            await asyncio.sleep(0)
            calm = 0 if any(worker.store.busy for worker in self.workers) else calm + 1

    async def act(self, step: Step) -> None:
        kind, *rest = step
        if kind == "calls":
            at, call_class, count = rest
            worker = self.workers[at % len(self.workers)]
            for _ in range(count):
                worker.tasks.add(asyncio.create_task(self.call(worker, call_class, 30.0)))
        elif kind == "pass":
            for _ in range(rest[0]):
                self.clock.advance(0.05)
                await self.settle()
        elif kind == "flush":
            await self.redis.flushall()
        elif kind == "crash":
            await self.crash(rest[0])
        elif kind == "skew":
            self.workers[rest[0] % len(self.workers)].clock.skew = timedelta(hours=rest[1])
        elif kind == "cut":
            for worker in self.workers:
                worker.store.cut_off = rest[0]
        await self.settle()

    async def stop(self) -> None:
        for worker in self.workers:
            await self.end(worker)

    def most_over(self) -> float:
        """Return by how much the worst window is over what it may hold."""
        return max(_over(window, sorted(self.admitted)) for window in self.policy.windows)


def _over(window: QuotaWindow, instants: list[float]) -> float:
    if window.shape == "fixed":
        start = BASE_US / 1e6
        counts: dict[int, int] = {}
        for at in instants:
            index = int((start + at + 1e-6) // window.seconds)
            counts[index] = counts.get(index, 0) + 1
        return max((count - window.limit for count in counts.values()), default=-window.limit)
    rate = window.limit / window.seconds
    worst = -window.burst
    # Of all intervals that end at a call, the worst starts at the call that maximises (calls before it - rate x time).
    lead = float("inf")
    for number, at in enumerate(instants):
        lead = min(lead, number - rate * at)
        worst = max(worst, number + 1 - rate * at - lead - window.burst)
    return worst


async def play(url: str, windows: tuple[QuotaWindow, ...], steps: Sequence[Step], size: int = 3) -> Fleet:
    redis = connect(url)
    try:
        await redis.flushall()
        fleet = Fleet(redis, windows, size)
        try:
            for step in steps:
                await fleet.act(step)
        finally:
            await fleet.stop()
        return fleet
    finally:
        await redis.aclose()


WINDOWS = st.sampled_from(
    [
        (QuotaWindow(limit=20, seconds=1, burst=6),),
        (QuotaWindow(limit=40, seconds=4, shape="fixed"),),
        (QuotaWindow(limit=20, seconds=1, burst=10), QuotaWindow(limit=50, seconds=5, shape="fixed")),
    ]
)
CALLS = st.tuples(st.just("calls"), st.integers(0, 2), st.sampled_from(CLASSES), st.integers(1, 25))
PASS = st.tuples(st.just("pass"), st.integers(1, 20))
TROUBLE = st.one_of(
    st.just(("flush",)),
    st.tuples(st.just("crash"), st.integers(0, 2)),
    st.tuples(st.just("skew"), st.integers(0, 2), st.sampled_from((-1, 1))),
    st.tuples(st.just("cut"), st.booleans()),
)


# One call, and the time in which a store that knows nothing yet leaves everybody to the safe share.
WARM: list[Step] = [("calls", 0, "critical", 1), ("pass", 40)]


@settings(max_examples=12)
@given(windows=WINDOWS, steps=st.lists(st.one_of(CALLS, PASS, PASS), min_size=4, max_size=20))
def test_in_quiet_times_no_window_holds_more_than_its_limit(
    redis_url: str, windows: tuple[QuotaWindow, ...], steps: list[Step]
) -> None:
    fleet = asyncio.run(play(redis_url, windows, [*WARM, *steps, ("pass", 40)]))
    assert fleet.most_over() <= 1e-6


@settings(max_examples=20)
@given(windows=WINDOWS, steps=st.lists(st.one_of(CALLS, PASS, PASS, TROUBLE), min_size=6, max_size=25))
@example(
    windows=(QuotaWindow(limit=40, seconds=4, shape="fixed"),),
    steps=[
        ("pass", 60),
        ("calls", 0, "critical", 60),
        ("pass", 4),
        ("flush",),
        ("calls", 1, "critical", 60),
        ("pass", 60),
    ],
)
def test_admitted_is_at_most_the_limit_and_the_leases_whatever_breaks(
    redis_url: str, windows: tuple[QuotaWindow, ...], steps: list[Step]
) -> None:
    fleet = asyncio.run(play(redis_url, windows, [*steps, ("cut", False), ("pass", 40)]))
    assert fleet.most_over() <= fleet.size * max(1.0, fleet.largest) + 1e-6


def test_a_limit_is_used_to_nineteen_parts_in_twenty_while_there_is_a_backlog(redis_url: str) -> None:
    steps: list[Step] = [("pass", 40), *(("calls", at, "bulk", 400) for at in range(3)), ("pass", 400)]
    fleet = asyncio.run(play(redis_url, (QuotaWindow(limit=100, seconds=5, shape="fixed"),), steps))
    late = [at for at in fleet.admitted if 5 <= at + 1e-6 < 20]
    assert 0.95 * 300 <= len(late) <= 300


def test_work_goes_on_at_the_safe_share_and_heals_when_the_store_is_back(redis_url: str) -> None:
    window = QuotaWindow(limit=30, seconds=1, burst=3)
    steps: list[Step] = [*(("calls", at, "critical", 1) for at in range(3)), ("pass", 60), ("cut", True)]
    steps += [("calls", at, "interactive", 100) for at in range(3)] + [("calls", 0, "bulk", 5), ("pass", 40)]
    cut = asyncio.run(play(redis_url, (window,), steps))
    assert 0.5 * 60 <= len(cut.admitted) <= 0.9 * 60 + 6, "0.9 of the rate is shared, and bulk stands still"
    healed = asyncio.run(play(redis_url, (window,), [*steps, ("cut", False), ("pass", 400)]))
    assert len(healed.admitted) == 308, "everybody who waited was served"
