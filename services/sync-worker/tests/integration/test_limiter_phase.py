"""A provider whose fixed windows begin at another time than ours: learned from headers, and then no call is refused.

The real script runs in a real Redis with the test's time, the real limiters run on a clock that the test moves.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.redis import connect
from chassis.testing.clock import ManualClock
from contracts.errors import Transient
from contracts.events.health import QuotaPolicy, QuotaWindow
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.store import Ask, Notice, QuotaStore, Reply
from sync_worker.limiter.usage import RetryBudgets, UsageBook

pytestmark = pytest.mark.integration

BASE_US = 1_800_000_000_000_000
RUNS = itertools.count()
LIMIT, SECONDS, WORKERS, TICK_S = 100, 10, 3, 0.05


class WatchedStore(QuotaStore):
    """Knows whether a round trip is under way."""

    busy = 0

    async def exchange(self, asks: Sequence[Ask], notices: Sequence[Notice] = ()) -> list[Reply]:
        WatchedStore.busy += 1
        try:
            return await super().exchange(asks, notices)
        finally:
            WatchedStore.busy -= 1


class Provider:
    """Counts what arrives in windows that begin `phase` seconds after ours; says so in its headers, or does not."""

    def __init__(self, phase: float, *, silent: bool) -> None:
        self.phase = phase
        self.silent = silent
        self.counts: dict[int, int] = {}
        self.refused: list[float] = []

    def call(self, at: float) -> tuple[bool, dict[str, str]]:
        index = math.floor((at - self.phase) / SECONDS)
        self.counts[index] = self.counts.get(index, 0) + 1
        left_s = math.ceil(SECONDS - (at - self.phase) % SECONDS)
        passed = self.counts[index] <= LIMIT
        if not passed:
            self.refused.append(at)
        if self.silent:
            return passed, {} if passed else {"retry-after": str(left_s)}
        left = max(0, LIMIT - self.counts[index])
        said = {"x-ratelimit-limit": str(LIMIT), "x-ratelimit-remaining": str(left), "x-ratelimit-reset": str(left_s)}
        return passed, said


async def play(url: str, provider: Provider, way_s: float) -> None:
    """Let three workers call for eight windows."""
    redis, clock, name = connect(url), ManualClock(), f"phase{next(RUNS)}"
    policy = QuotaPolicy(
        provider=name,
        bucket="account",
        windows=(QuotaWindow(limit=LIMIT, seconds=SECONDS, shape="fixed"),),
        version=1,
        decided_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    tasks: set[asyncio.Task[None]] = set()

    def worker(number: int) -> asyncio.Task[None]:
        book, usage, retries = PolicyBook(), UsageBook(clock, f"w{number}"), RetryBudgets(clock.monotonic)
        book.put(policy)
        store = WatchedStore(
            redis, f"w{number}", timeout_s=10, time_us=lambda: BASE_US + round(clock.monotonic() * 1e6)
        )
        limiter = Limiter(store, clock, usage, retries, workers=WORKERS)
        feedback = Feedback(limiter, book, usage, retries, clock)
        path = book.path(name, "c")

        async def call() -> None:
            try:
                await limiter.take(path, "critical" if number else "bulk", 1.0, clock.monotonic() + 60)
            except Transient:
                return
            sent_at = clock.monotonic()
            passed, said = provider.call(sent_at + way_s)
            await clock.sleep(2 * way_s)
            feedback.answered(path, "success" if passed else "throttled", said, sent_at)

        async def offer() -> None:
            while True:
                # From 17 s on there is more to do than the limit lets through; before, too little to fill a window.
                for _ in range(1 if clock.monotonic() < 17 else 10 if clock.monotonic() < 23 else 2):
                    task = asyncio.create_task(call())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                await clock.sleep(0.5)

        tasks.add(asyncio.create_task(offer()))
        return asyncio.create_task(limiter.run())

    running = [worker(number) for number in range(WORKERS)]
    try:
        while clock.monotonic() < 8 * SECONDS:
            calm = 0
            while calm < 5:
                await asyncio.sleep(0)
                calm = 0 if WatchedStore.busy else calm + 1
            clock.advance(TICK_S)
    finally:
        for one in [*running, *tasks]:
            one.cancel()
        await asyncio.gather(*running, *tasks, return_exceptions=True)
        await redis.aclose()


@settings(max_examples=6, deadline=None)
@given(phase=st.floats(0, SECONDS, exclude_max=True), way_s=st.sampled_from((0.01, 0.04)))
def test_nothing_is_refused_whenever_the_providers_windows_begin(redis_url: str, phase: float, way_s: float) -> None:
    provider = Provider(phase, silent=False)
    asyncio.run(play(redis_url, provider, way_s))
    assert provider.refused == []
    full = [provider.counts[index] for index in sorted(provider.counts)][3:-1]
    assert min(full) >= 0.8 * LIMIT, "and the windows are used"


def test_without_headers_the_same_calls_are_refused_now_and_then(redis_url: str) -> None:
    provider = Provider(3.0, silent=True)
    asyncio.run(play(redis_url, provider, 0.02))
    assert provider.refused
