"""The script that takes quota, in a real Redis at instants that the test chooses."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from chassis.redis import Redis, connect
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from sync_worker.limiter.policies import CallPath, PolicyBook
from sync_worker.limiter.store import Ask, QuotaStore, Reply, Throttle, WindowTurn, version_key

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

RUNS = itertools.count()
BASE_US = 1_800_000_000_000_000


class Quota:
    """One provider with the given windows; `now` is moved by hand. The store has healed when a test starts."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.provider = f"s{next(RUNS)}"
        self.book = PolicyBook()
        self.now = 0.0
        self.versions = itertools.count(1)

    def policy(self, *windows: QuotaWindow, bucket: str = "account", **fields: Any) -> None:
        self.book.put(
            QuotaPolicy(
                provider=self.provider,
                bucket=bucket,
                windows=windows,
                version=next(self.versions),
                decided_at=datetime(2026, 1, 1, tzinfo=UTC),
                **fields,
            )
        )

    def path(self, credential: str = "c", **place: Any) -> CallPath:
        return self.book.path(self.provider, credential, **place)

    def store(self, worker: str) -> QuotaStore:
        return QuotaStore(self.redis, worker, timeout_s=10, time_us=lambda: BASE_US + round(self.now * 1e6))

    async def heal(self) -> None:
        await self.ask("critical", 0)
        self.now += 5.0

    async def ask(self, call_class: CallClass, want: float, *, worker: str = "w1", **fields: Any) -> Reply:
        path = fields.pop("path", None) or self.path()
        fields = {"cost": 1.0, "need": want} | fields
        return (await self.store(worker).exchange([Ask(path, call_class, want=want, **fields)]))[0]

    async def granted(self, call_class: CallClass, want: float, **fields: Any) -> float:
        return (await self.ask(call_class, want, **fields)).granted

    async def turn(self, earliest: float, latest: float, way_s: float = 0.0, *, seconds: float = 10) -> None:
        at = BASE_US / 1e6
        bucket = self.path().narrowest
        told = WindowTurn(self.provider, bucket, seconds, at + earliest, at + latest, way_s)
        await self.store("w1").exchange([], [told])

    async def throttle(self, bucket: str, block_s: float, age_s: float = 0.0) -> None:
        await self.store("w1").exchange([], [Throttle(self.provider, bucket, block_s, age_s)])


@pytest_asyncio.fixture
async def quota(redis_url: str) -> AsyncIterator[Quota]:
    redis = connect(redis_url)
    try:
        quota = Quota(redis)
        await quota.heal()
        yield quota
    finally:
        await redis.aclose()


async def test_each_class_leaves_its_reserve_of_the_burst_to_those_above(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=1, burst=10))
    assert await quota.granted("bulk", 20, need=0) == pytest.approx(5, abs=0.01)
    assert await quota.granted("interactive", 20, need=0) == pytest.approx(3, abs=0.01)
    assert await quota.granted("critical", 20, need=0) == pytest.approx(2, abs=0.01)
    assert await quota.granted("critical", 1, need=0) == 0


async def test_the_wait_that_is_told_is_the_wait_that_is_needed(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=1, burst=10))
    await quota.granted("critical", 10)
    for call_class, units in (("critical", 1), ("interactive", 3), ("bulk", 6)):
        wait = (await quota.ask(call_class, 1, need=0)).wait_s  # type: ignore[arg-type]
        assert wait == pytest.approx(units / 9.8, abs=0.001)
    quota.now += 1 / 9.8 - 0.001
    assert await quota.granted("critical", 1, need=0) == 0
    quota.now += 0.002
    assert await quota.granted("critical", 1, need=0) == 1


async def test_a_class_passes_even_when_its_part_of_the_burst_is_less_than_one_call(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=1, burst=1))
    assert await quota.granted("bulk", 1) == 1
    reply = await quota.ask("bulk", 1, need=0)
    assert reply.granted == 0
    assert reply.wait_s > (await quota.ask("critical", 1, need=0)).wait_s
    quota.now += reply.wait_s
    assert await quota.granted("bulk", 1) == 1


async def test_a_take_is_from_all_windows_and_buckets_or_from_none(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=1, shape="fixed"), bucket="app")
    quota.policy(
        QuotaWindow(limit=50, seconds=1, shape="fixed"),
        QuotaWindow(limit=3.1, seconds=100, shape="fixed"),
        bucket="account",
    )
    assert await quota.granted("critical", 10) == pytest.approx(2.9, abs=0.2)
    refused = await quota.ask("critical", 1, need=0)
    assert refused.granted == 0
    assert refused.wait_s == pytest.approx(95, abs=1)
    app_count = refused.known[0].split(":")[1]
    assert float(app_count) == pytest.approx(2.9, abs=0.2), "the refused takes cost nothing in the wider bucket"
    assert await quota.granted("critical", 10, path=quota.path("other")) > 2


async def test_bulk_leaves_a_third_of_a_counted_window_and_gets_the_tail_when_nobody_needs_it(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=1000, seconds=10, shape="fixed"))
    quota.now = 100.0
    first = await quota.granted("bulk", 1000, need=0)
    assert first < 680
    assert await quota.granted("interactive", 200, need=0) == 200
    quota.now = 109.99
    last = await quota.granted("bulk", 1000, need=0)
    assert first + 200 + last == pytest.approx(980, abs=5)


async def test_what_higher_classes_used_last_window_is_kept_for_them_in_this_one(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=1000, seconds=10, shape="fixed"))
    quota.now = 100.0
    await quota.granted("interactive", 600)
    quota.now = 110.0
    bulk = await quota.granted("bulk", 1000, need=0)
    assert bulk < 400
    assert await quota.granted("interactive", 590, need=0) == 590


async def test_a_waiter_is_served_before_lower_classes_whoever_asks_first(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=20, seconds=1, burst=10))
    await quota.granted("critical", 10, need=0)
    quota.now += 0.4
    free = await quota.ask("bulk", 5, need=0)
    assert free.granted > 2
    await quota.granted("critical", 5, need=0, back=free.granted, back_at=free.now)
    await quota.ask("critical", 12, worker="w2")
    quota.now += 0.4
    assert await quota.granted("bulk", 5, need=0) == 0, "w2 waits for what is free"
    assert await quota.granted("critical", 6, worker="w2") == 6


async def test_scarce_units_are_shared_max_min_among_those_who_wait(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=90, seconds=1, shape="fixed"))
    quota.now = 100.0
    await quota.granted("critical", 90)
    for worker, want in (("w1", 10), ("w2", 200), ("w3", 200)):
        await quota.ask("critical", want, worker=worker)
    quota.now = 100.9
    for worker, want in (("w1", 10), ("w2", 200), ("w3", 200)):
        await quota.ask("critical", want, worker=worker)
    quota.now = 101.0
    modest = await quota.granted("critical", 10, worker="w1")
    greedy = await quota.granted("critical", 200, worker="w2")
    other = await quota.granted("critical", 200, worker="w3")
    assert modest == 10
    assert greedy == pytest.approx(other, abs=4)


async def test_bulk_gets_a_twentieth_of_the_rate_against_any_pressure_but_an_emergency(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=20, seconds=1, burst=5))
    await quota.granted("critical", 5)
    bulk = 0.0
    for _ in range(60 * 20):
        bulk += await quota.granted("bulk", 1, worker="w2")
        await quota.ask("critical", 50)
        quota.now += 0.05
    assert bulk >= 0.05 * 0.98 * 20 * 60 * 0.95
    assert bulk < 0.07 * 20 * 60
    await quota.ask("critical", 1, emergency=True)
    during = 0.0
    for _ in range(20 * 20):
        during += await quota.granted("bulk", 1, worker="w2")
        await quota.ask("critical", 50)
        quota.now += 0.05
    assert during == 0


async def test_an_emergency_has_five_percent_of_its_own_and_not_more(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=1, burst=10))
    await quota.granted("critical", 10)
    passed = [await quota.granted("critical", 1, emergency=True) for _ in range(10)]
    assert sum(passed) == 5
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 200.0
    normal = await quota.granted("critical", 100)
    passed = [await quota.granted("critical", 1, emergency=True) for _ in range(10)]
    assert sum(passed) == 5
    assert normal + 5 <= 98


async def test_a_block_stops_every_worker_in_the_bucket_that_was_named_and_no_other(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=1000, seconds=1, burst=100))
    search = quota.path(endpoint="search")
    await quota.throttle(search.narrowest, 7.0)
    blocked = await quota.ask("critical", 1, worker="w2", path=search)
    assert blocked.granted == 0
    assert blocked.wait_s == pytest.approx(7.0, abs=0.01)
    assert await quota.granted("critical", 1, emergency=True, path=search) == 0
    assert await quota.granted("critical", 1) == 1
    assert await quota.granted("critical", 1, path=quota.path("other")) == 1
    quota.now += 7.01
    assert await quota.granted("critical", 1, path=search) == 1
    await quota.throttle(quota.path().named("app"), 3.0)
    assert await quota.granted("critical", 1, path=quota.path("other")) == 0


async def test_without_any_limit_everything_passes_until_a_429_teaches_one(quota: Quota) -> None:
    for _ in range(20):
        quota.now += 0.1
        assert await quota.granted("bulk", 10) == 10
    await quota.throttle(quota.path().narrowest, 0, age_s=0.1)

    async def per_s(seconds: float) -> float:
        units = 0.0
        for _ in range(round(seconds * 20)):
            quota.now += 0.05
            units += await quota.granted("critical", 100, need=0)
        return units / seconds

    assert await per_s(2) == pytest.approx(70, rel=0.25), "seven tenths of the hundred a second that were too many"
    assert await per_s(3) >= 80, "and it grows back"


async def test_many_429s_of_one_round_trip_lower_the_estimate_once(quota: Quota) -> None:
    for _ in range(20):
        quota.now += 0.1
        await quota.granted("critical", 10)
    key = f"patchbay:quota:{{{quota.provider}}}:state:{quota.path().narrowest}"
    await quota.throttle(quota.path().narrowest, 0, age_s=0.2)
    once = await quota.redis.hget(key, "cw")
    for _ in range(5):
        quota.now += 0.01
        await quota.throttle(quota.path().narrowest, 0, age_s=0.2)
    assert await quota.redis.hget(key, "cw") == once
    await quota.throttle(quota.path().narrowest, 0, age_s=0.01)
    assert float(await quota.redis.hget(key, "cw") or 0) < float(once or 0)


async def test_slots_in_flight_are_bounded_and_freed_by_who_held_them_or_by_time(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=5, seconds=1, shape="concurrent"))
    assert await quota.granted("critical", 4, known=["0"]) == 4
    assert await quota.granted("critical", 4, worker="w2", known=["0"]) == pytest.approx(1)
    assert await quota.granted("critical", 1, worker="w2", known=["1"]) == 0
    await quota.ask("critical", 0, known=["2"])
    assert await quota.granted("critical", 2, worker="w2", known=["1"], need=0) == 2
    quota.now += 31
    assert await quota.granted("critical", 5, worker="w3", known=["0"]) == 5, "whoever held them is dead"


async def test_what_comes_back_can_be_used_again_but_not_in_another_window(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=10, shape="fixed"))
    quota.now = 100.0
    first = await quota.ask("critical", 9)
    assert await quota.granted("critical", 5, need=0) == 0
    assert await quota.granted("critical", 5, need=0, back=5, back_at=first.now) == 5
    quota.now = 110.0
    await quota.ask("critical", 9)
    assert await quota.granted("critical", 5, need=0, back=5, back_at=first.now) == 0


async def test_a_trimmed_class_loses_that_part_of_its_rate(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=20, seconds=1, burst=2), trims={"c": {"bulk": 0.5, "interactive": 1.0}})
    units = 0.0
    for _ in range(200):
        quota.now += 0.05
        units += await quota.granted("bulk", 10, need=0)
        assert await quota.granted("interactive", 1, need=0) == 0
    assert units == pytest.approx(0.5 * 0.98 * 20 * 10, rel=0.1)


async def test_a_clock_that_went_back_neither_opens_nor_shuts_the_limit(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=1, burst=10))
    quota.now = 7200.0
    await quota.granted("critical", 10)
    quota.now = 3600.0
    assert await quota.granted("critical", 1, need=0) == 0
    quota.now += 3.0
    assert await quota.granted("critical", 1, need=0) == 1


async def test_every_reply_carries_the_route_version_and_how_many_workers_there_are(quota: Quota) -> None:
    assert (await quota.ask("critical", 1)).route_version == 0
    await quota.redis.set(version_key(quota.provider), 42)
    for worker in ("w1", "w2", "w3"):
        reply = await quota.ask("critical", 1, worker=worker, hello=True)
    assert (reply.route_version, reply.workers) == (42, 3)
    quota.now += 11
    assert (await quota.ask("critical", 1, hello=True)).workers == 1


async def test_retry_tokens_are_shared_and_bounded(quota: Quota) -> None:
    assert (await quota.ask("critical", 1)).retry_tokens == 500
    assert (await quota.ask("critical", 1, worker="w2", retry_delta=-30)).retry_tokens == 470
    assert (await quota.ask("critical", 1, retry_delta=100)).retry_tokens == 500
    assert (await quota.ask("critical", 1, retry_delta=-900)).retry_tokens == 0


async def test_a_store_that_forgot_heals_before_it_grants_and_takes_what_workers_knew(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=10, seconds=100, shape="fixed"))
    quota.now = 100.0
    before = await quota.ask("critical", 8)
    await quota.redis.flushall()
    lost = await quota.ask("critical", 1)
    assert (lost.granted, lost.healing) == (0, True)
    assert lost.born != before.born
    await quota.ask("critical", 0, known=before.known)
    quota.now += lost.wait_s
    assert await quota.granted("critical", 5, need=0) == pytest.approx(1.3, abs=0.01)


async def test_a_window_turns_where_the_providers_does(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 101.0
    assert await quota.granted("critical", 50) == 50
    await quota.turn(103.0, 103.0)
    quota.now = 102.9
    assert await quota.granted("critical", 100, need=0) == pytest.approx(48, abs=0.5), "the same window still"
    quota.now = 103.1
    assert await quota.granted("critical", 90) == 90
    quota.now = 112.9
    assert await quota.granted("critical", 90, need=0) < 9
    quota.now = 113.1
    assert await quota.granted("critical", 90) == 90, "and so do all that follow"


async def test_what_is_granted_while_the_turn_is_in_doubt_counts_for_both_windows(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 101.0
    assert await quota.granted("critical", 50) == 50
    await quota.turn(103.0, 104.0, way_s=0.2)
    quota.now = 102.7
    before = await quota.ask("critical", 10)
    assert before.lease_end <= BASE_US + 102_800_000, "what is leased before the doubt is not spent in it"
    quota.now = 103.5
    assert await quota.granted("critical", 20) == 20
    assert await quota.granted("critical", 60, need=0) < 20, "the old window is full at 98"
    quota.now = 104.1
    carried = 98 - await quota.granted("critical", 100, need=0)
    assert 38 <= carried <= 44, "20 and less than 20 were granted in doubt, and 5 are kept for an emergency"


async def test_a_move_of_the_window_forgets_no_call(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 99.0
    assert await quota.granted("critical", 60) == 60
    quota.now = 101.0
    assert await quota.granted("critical", 20) == 20
    await quota.turn(105.0, 105.0)
    assert await quota.granted("critical", 98, need=0) < 18, "it began at 95, so all 80 may lie in it"
    quota.now = 105.1
    await quota.turn(108.0, 108.0)
    assert await quota.granted("critical", 90, need=0) < 20, "a turn that moves again does not make room"


async def test_workers_narrow_the_doubt_together(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 101.0
    await quota.turn(103.0, 105.0)
    await quota.turn(94.0, 94.5)
    told = (await quota.ask("critical", 1)).known[0].split(":")
    assert [float(one) / 1e6 for one in told[2:]] == pytest.approx([4.5, 0.5])


async def test_a_store_that_forgot_is_told_where_the_windows_turn(quota: Quota) -> None:
    quota.policy(QuotaWindow(limit=100, seconds=10, shape="fixed"))
    quota.now = 101.0
    await quota.turn(107.0, 107.0)
    before = await quota.ask("critical", 80)
    await quota.redis.flushall()
    lost = await quota.ask("critical", 0, known=before.known)
    quota.now += 4.0
    assert lost.healing
    assert await quota.granted("critical", 60, need=0) < 19, "the window of 97 goes on"
    quota.now = 107.1
    assert await quota.granted("critical", 90) == 90
