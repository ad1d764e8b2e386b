"""The memory of what is durable already, on a real Redis: three cases of one id, outages, and who lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis.clock import SystemClock
from chassis.redis import connect
from chassis.testing.harness import until
from chassis.testing.redis import PrivateRedis
from contracts.ids import uuid7_text
from webhook_gateway.dedup import BREAK_S, DedupMemory, Seen, event_key, fingerprint
from webhook_gateway.fleet import Fleet
from webhook_gateway.limits import RateLimits

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

LIFETIME_S = 3600


@asynccontextmanager
async def memory_at(url: str) -> AsyncIterator[DedupMemory]:
    redis = connect(url)
    memory = DedupMemory(redis, SystemClock())
    running = asyncio.create_task(memory.run())
    try:
        yield memory
    finally:
        running.cancel()
        await redis.aclose()


def event(endpoint: str = "ep-1", tenant: str = "t1", identifier: str = "evt_1") -> bytes:
    return event_key(tenant, endpoint, f"{identifier}-{RUN}")


RUN = uuid7_text()


async def known(memory: DedupMemory, key: bytes) -> Seen:
    async def look() -> Seen | None:
        return await memory.look(key)

    seen: Seen = await until(look, "the mark")
    return seen


async def test_what_is_marked_is_known_with_its_first_delivery_and_body(redis_url: str) -> None:
    async with memory_at(redis_url) as memory:
        assert await memory.look(event(identifier="fresh")) is None
        first, second = (Seen(uuid7_text(), fingerprint(body)) for body in (b"one", b"two"))
        memory.mark(event(identifier="a"), first, LIFETIME_S)
        assert await known(memory, event(identifier="a")) == first
        memory.mark(event(identifier="a"), second, LIFETIME_S)
        assert await known(memory, event(identifier="a")) == first, "the first delivery stays the one to compare with"


async def test_tenants_and_endpoints_with_equal_ids_do_not_know_each_other(redis_url: str) -> None:
    async with memory_at(redis_url) as memory:
        memory.mark(event(identifier="b"), Seen(uuid7_text(), fingerprint(b"x")), LIFETIME_S)
        await known(memory, event(identifier="b"))
        assert await memory.look(event(tenant="t2", identifier="b")) is None
        assert await memory.look(event(endpoint="ep-2", identifier="b")) is None


async def test_names_cannot_be_spelled_alike() -> None:
    assert event_key("a", "bc", "d") != event_key("ab", "c", "d")
    assert event_key("a", "b", "1:c") != event_key("a", "b1:", "c")


async def test_many_look_ups_at_once_are_answered_each_with_its_own(redis_url: str) -> None:
    async with memory_at(redis_url) as memory:
        seen = {n: Seen(uuid7_text(), fingerprint(b"%d" % n)) for n in range(0, 2000, 2)}
        for n, one in seen.items():
            memory.mark(event(identifier=f"many-{n}"), one, LIFETIME_S)
        await known(memory, event(identifier="many-1998"))
        found = await asyncio.gather(*(memory.look(event(identifier=f"many-{n}")) for n in range(2000)))
        assert found == [seen.get(n) for n in range(2000)]


async def test_a_memory_survives_a_restart_of_the_gateway_and_ends_after_its_lifetime(redis_url: str) -> None:
    seen = Seen(uuid7_text(), fingerprint(b"x"))
    async with memory_at(redis_url) as memory:
        memory.mark(event(identifier="restart"), seen, LIFETIME_S)
        await known(memory, event(identifier="restart"))
    async with memory_at(redis_url) as memory:
        assert await memory.look(event(identifier="restart")) == seen
        redis = connect(redis_url)
        assert 0 < await redis.ttl(event(identifier="restart")) <= LIFETIME_S
        await redis.aclose()


async def test_without_redis_nothing_is_known_nobody_waits_and_it_comes_back(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with PrivateRedis(tmp_path / "redis") as server:
        async with memory_at(server.url) as memory:
            memory.mark(event(identifier="c"), Seen(uuid7_text(), fingerprint(b"x")), LIFETIME_S)
            await known(memory, event(identifier="c"))
            server.kill()
            started = loop.time()
            assert await asyncio.gather(*(memory.look(event(identifier="c")) for _ in range(1000))) == [None] * 1000
            assert loop.time() - started < BREAK_S
            memory.mark(event(identifier="d"), Seen(uuid7_text(), fingerprint(b"x")), LIFETIME_S)
            server.restart()
            again = Seen(uuid7_text(), fingerprint(b"again"))

            async def remembers() -> bool:
                memory.mark(event(identifier="e"), again, LIFETIME_S)
                return await memory.look(event(identifier="e")) == again

            await until(remembers, "the memory is back")


async def test_each_process_of_a_fleet_counts_all_of_them(tmp_path: Path) -> None:
    clock = SystemClock()
    with PrivateRedis(tmp_path / "redis") as server:
        redis = connect(server.url)
        limits = [RateLimits(clock) for _ in range(3)]
        fleet = [Fleet(redis, one, clock) for one in limits]
        for _ in range(2):
            for one in fleet:
                await one.beat()
        assert [one.processes for one in limits] == [3, 3, 3]
        server.kill()
        await fleet[0].beat()
        assert limits[0].processes == 1, "without a count each process allows the whole limit"
        await redis.aclose()
