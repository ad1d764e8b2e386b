"""The limiter as callers see it: leases, order, deadlines, outages, what answers teach; real Redis, real time."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from chassis.redis import Redis, connect
from chassis.telemetry.metrics import bound_counter
from chassis.testing.harness import until
from chassis.testing.redis import PrivateRedis
from contracts.errors import Invalid, Transient
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.metrics import STORE_TRIPS
from sync_worker.limiter.policies import CallPath, PolicyBook, Turn
from sync_worker.limiter.pools import Grant
from sync_worker.limiter.store import QuotaStore, version_key
from sync_worker.limiter.usage import RetryBudgets, UsageBook

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

RUNS = itertools.count()


class Process:
    """One worker process with everything of the limiter in it."""

    def __init__(self, redis: Redis, provider: str = "", name: str = "w1") -> None:
        self.provider = provider or f"l{next(RUNS)}"
        self.clock = SystemClock()
        self.book = PolicyBook()
        self.usage = UsageBook(self.clock, name)
        self.retries = RetryBudgets(self.clock.monotonic)
        self.versions: list[int] = []
        self.limiter = Limiter(
            QuotaStore(redis, name, timeout_s=5),
            self.clock,
            self.usage,
            self.retries,
            workers=1,
            on_version=lambda _, version: self.versions.append(version),
        )
        self.feedback = Feedback(self.limiter, self.book, self.usage, self.retries, self.clock)
        self.running = asyncio.create_task(self.limiter.run())

    def limit(self, *windows: QuotaWindow, bucket: str = "account", version: int = 1) -> CallPath:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        self.book.put(
            QuotaPolicy(provider=self.provider, bucket=bucket, windows=windows, version=version, decided_at=at)
        )
        return self.path()

    def path(self, credential: str = "c", **place: Any) -> CallPath:
        return self.book.path(self.provider, credential, **place)

    async def take(self, path: CallPath, call_class: CallClass, patience_s: float = 20.0, **fields: Any) -> Grant:
        return await self.limiter.take(
            path, call_class, fields.pop("cost", 1.0), time.monotonic() + patience_s, **fields
        )

    async def stop(self) -> None:
        """End the process, and have its connections back before the store is closed."""
        self.running.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(self.running, return_exceptions=True)

    async def heal(self) -> None:
        """Wait until a store that knew nothing of the provider grants: until then bulk waits."""
        await self.take(self.path("warm-up"), "bulk")

    def queue(self, path: CallPath, call_class: CallClass, order: list[str], name: str) -> asyncio.Task[None]:
        async def wait() -> None:
            await self.take(path, call_class)
            order.append(name)

        return asyncio.create_task(wait())


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    redis = connect(redis_url)
    yield redis
    await redis.aclose()


@pytest_asyncio.fixture
async def process(redis: Redis) -> AsyncIterator[Process]:
    process = Process(redis)
    yield process
    await process.stop()


async def test_calls_are_spent_from_a_lease_without_asking_the_store_each_time(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=100_000, seconds=1, burst=50_000))
    await process.heal()
    trips = bound_counter(STORE_TRIPS, "answered")._value
    await process.take(path, "interactive")
    before, calls, start = trips.get(), 0, time.monotonic()
    while time.monotonic() - start < 0.5:
        for _ in range(5):
            await process.take(path, "interactive")
            calls += 1
        await process.clock.sleep(0.002)
    assert (trips.get() - before) / calls < 0.15


async def test_who_waits_is_served_by_class_and_then_by_deadline(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=20, seconds=1, burst=1))
    await process.heal()
    order: list[str] = []
    await process.take(path, "critical")
    waiting = [process.queue(path, "bulk", order, "bulk"), process.queue(path, "interactive", order, "interactive")]
    waiting += [process.queue(path, "critical", order, "critical")]
    late = asyncio.create_task(process.take(path, "critical", 15.0))
    soon = asyncio.create_task(process.take(path, "critical", 1.0))
    done, _ = await asyncio.wait([late, soon], return_when=asyncio.FIRST_COMPLETED)
    assert soon in done
    await asyncio.gather(*waiting, late)
    assert order == ["critical", "interactive", "bulk"]


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=1, seconds=30, burst=1))
    await process.heal()
    await process.take(path, "critical")
    start = time.monotonic()
    with pytest.raises(Transient) as refused:
        await process.take(path, "critical", 10.0)
    assert refused.value.code == "quota_deadline"
    assert 20 < (refused.value.retry_after_s or 0) <= 31
    with pytest.raises(Transient):
        await process.take(path, "critical", 5.0)
    with pytest.raises(Transient):
        await process.take(path, "critical", -1.0)
    assert time.monotonic() - start < 5


async def test_a_call_that_no_window_can_ever_grant_is_refused_for_good(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=100, seconds=1, burst=3))
    with pytest.raises(Invalid) as refused:
        await process.take(path, "critical", cost=4.0)
    assert (refused.value.code, refused.value.field) == ("quota_cost", "cost")


async def test_a_lost_announcement_of_a_route_is_seen_in_the_next_reply(process: Process, redis: Redis) -> None:
    path = process.limit(QuotaWindow(limit=100, seconds=1, burst=10))
    await process.take(path, "critical")
    await redis.set(version_key(process.provider), 7)
    await process.take(process.path("other"), "critical")

    async def seen() -> bool:
        return process.versions == [7]

    await until(seen, "the version of the routes")


async def test_a_429_stops_the_bucket_for_every_worker_until_the_provider_said(redis: Redis, process: Process) -> None:
    window = QuotaWindow(limit=1000, seconds=1, burst=100)
    path = process.limit(window)
    await process.heal()
    other = Process(redis, process.provider, "w2")
    try:
        their_path = other.limit(window)
        await other.take(their_path, "critical")
        seen = process.feedback.answered(path, "throttled", {"Retry-After": "30"}, time.monotonic())
        assert seen.retry_after_s == 30
        with pytest.raises(Transient):
            await process.take(path, "critical", 5.0)

        async def stopped() -> bool:
            try:
                await other.take(their_path, "critical", 5.0)
            except Transient as error:
                return error.code == "quota_deadline"
            return False

        await until(stopped, "the block in the other worker", 2.0)
        await other.take(other.path("another-account"), "critical", 5.0)
    finally:
        await other.stop()
    process.limiter.collect()
    reports = {(report.bucket, report.owner): report for report in process.usage.collect()}
    assert reports["account", "c"].throttled == 1


async def test_what_the_sandbox_spends_and_learns_leaves_live_calls_alone(process: Process) -> None:
    live = process.limit(QuotaWindow(limit=1000, seconds=1, burst=50), bucket="app")
    sandbox = process.path(mode="sandbox")
    await process.heal()
    await process.take(process.path("warm-up", mode="sandbox"), "bulk")
    process.feedback.answered(sandbox, "throttled", {"Retry-After": "30"}, time.monotonic(), scope="app")
    headers = {"RateLimit-Policy": '"m";q=5;w=1', "RateLimit": '"m";r=0;t=1'}
    process.feedback.answered(sandbox, "success", headers, time.monotonic(), scope="app")
    assert (sandbox.buckets[0].windows[0].limit, live.buckets[0].windows[0].limit) == (5, 1000)
    while process.retries.may_retry(sandbox.scope):
        pass
    for _ in range(60):
        await process.take(live, "critical")
    with pytest.raises(Transient):
        await process.take(sandbox, "critical", 5.0)
    assert process.retries.may_retry(live.scope)
    process.limiter.collect()
    modes = {(one.mode, one.bucket): one.throttled for one in process.usage.collect()}
    assert (modes["sandbox", "app"], modes["live", "app"]) == (1, 0)


async def test_headers_lower_the_limit_and_an_empty_quota_waits_for_its_reset(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=1000, seconds=60, shape="fixed"))
    await process.heal()
    headers = {"RateLimit-Policy": '"m";q=500;w=60', "RateLimit": '"m";r=400;t=20'}
    process.feedback.answered(path, "success", headers, time.monotonic())
    assert path.buckets[1].windows[0].limit == 500
    process.feedback.answered(path, "success", headers | {"RateLimit": '"m";r=0;t=20'}, time.monotonic())
    with pytest.raises(Transient):
        await process.take(path, "critical", 10.0)


async def test_slots_are_held_until_the_call_ends(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=2, seconds=1, shape="concurrent"))
    await process.heal()
    first, second = await process.take(path, "critical"), await process.take(path, "critical")
    third = asyncio.create_task(process.take(path, "critical"))
    for _ in range(20):
        await process.clock.sleep(0.005)
    assert not third.done()
    first.release()
    first.release()
    granted = await asyncio.wait_for(third, 5)
    fourth = asyncio.create_task(process.take(path, "critical"))
    for _ in range(20):
        await process.clock.sleep(0.005)
    assert not fourth.done(), "a grant that is released twice frees one slot"
    granted.release()
    await asyncio.wait_for(fourth, 5)
    second.release()


async def test_retries_spent_here_are_missing_there(redis: Redis, process: Process) -> None:
    path = process.limit(QuotaWindow(limit=1000, seconds=1, burst=100))
    await process.heal()
    assert [process.retries.may_retry(process.provider) for _ in range(100)] == [True] * 100
    await process.take(process.path("tells"), "critical")
    other = Process(redis, process.provider, "w2")
    try:
        assert other.retries.may_retry(process.provider), "nothing is known yet"
        await other.take(path, "critical")
        again = [other.retries.may_retry(process.provider) for _ in range(2)]
        assert again == [True, False], "the free one of this second is all that is left"
    finally:
        await other.stop()


async def test_an_emergency_passes_where_critical_calls_wait(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=30, seconds=10, burst=10))
    await process.heal()
    for _ in range(10):
        await process.take(path, "critical", 5.0)
    with pytest.raises(Transient):
        await process.take(path, "critical", 0.05)
    assert (await process.take(path, "critical", 0.5, emergency=True)).waited_s < 0.5


async def test_bulk_waits_in_order_of_its_turns_and_only_then_of_deadlines(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=20, seconds=1, burst=1))
    await process.heal()
    await process.take(path, "bulk")
    order: list[str] = []

    async def wait(turn: Turn, patience_s: float) -> None:
        await process.take(path, "bulk", patience_s, turn=turn)
        order.append(f"{turn} {patience_s:g}")

    asked: list[tuple[Turn, float]] = [("backfill", 5), ("pull", 9), ("reconcile", 6), ("pull", 8), ("reconcile", 7)]
    await asyncio.gather(*(wait(*one) for one in asked))
    assert order == ["pull 8", "pull 9", "reconcile 6", "reconcile 7", "backfill 5"]


async def test_bulk_of_a_later_turn_is_refused_at_its_deadline_while_an_earlier_one_waits(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=2, seconds=1, burst=1))
    await process.heal()
    await process.take(path, "bulk")
    pulls = [asyncio.create_task(process.take(path, "bulk", 9.0, turn="pull")) for _ in range(4)]
    await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(Transient) as refused:
        await process.take(path, "bulk", 0.6, turn="backfill")
    assert refused.value.code == "quota_deadline"
    assert time.monotonic() - started < 1
    await asyncio.gather(*pulls)


async def test_a_waiter_that_gives_up_takes_nothing_with_it(process: Process) -> None:
    path = process.limit(QuotaWindow(limit=10, seconds=1, burst=1))
    await process.heal()
    await process.take(path, "critical")
    waiting = [asyncio.create_task(process.take(path, "critical")) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting[:4]:
        task.cancel()
    start = time.monotonic()
    await waiting[4]
    assert time.monotonic() - start < 0.35


async def test_a_dead_store_lowers_the_rate_and_stops_bulk_and_heals_by_itself(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path / "redis")
    with server:
        redis = connect(server.url)
        process = Process(redis)
        path = process.limit(QuotaWindow(limit=100, seconds=1, burst=20))
        await process.heal()
    try:
        with pytest.raises(Transient):
            await process.take(path, "bulk", 0.5)
        start = time.monotonic()
        for _ in range(60):
            await process.take(path, "critical")
        assert time.monotonic() - start >= (60 - 20) / 90 - 0.05
        bulk = asyncio.create_task(process.take(path, "bulk", 30.0))
        await asyncio.sleep(0)
        with PrivateRedis(tmp_path / "redis", server.port):
            await asyncio.wait_for(bulk, 15)
    finally:
        await process.stop()
        await redis.aclose()
