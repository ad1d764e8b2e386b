"""The mirror on a real Redis: epochs never go back, lost announcements heal, a flush is refilled."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from chassis.mirror import CHANNEL, Mirrored, MirrorOwner, MirrorSubscriber, read_all, records_key, version, version_key
from chassis.redis import Redis, connect
from chassis.testing.harness import until
from chassis.testing.redis import PrivateRedis
from contracts.errors import Invalid

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

Seen = dict[tuple[str, str], Mirrored]


@pytest_asyncio.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


def owner_of(redis: Redis) -> MirrorOwner:
    return MirrorOwner(redis, SystemClock())


@asynccontextmanager
async def following(url: str) -> AsyncIterator[tuple[MirrorSubscriber, Seen]]:
    client = connect(url)
    seen: Seen = {}
    order: dict[tuple[str, str], tuple[int, int]] = {}

    def apply(record: Mirrored) -> None:
        place = record.group, record.key
        assert record.epoch > order.get(place, (-1, -1)), "an epoch went back"
        order[place] = record.epoch
        seen[place] = record

    subscriber = MirrorSubscriber(client, SystemClock(), apply)
    task = asyncio.create_task(subscriber.run())
    try:
        yield subscriber, seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()


def holds(seen: Seen, place: tuple[str, str], value: bytes) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return place in seen and seen[place].value == value

    return check


async def test_a_record_is_written_once_with_its_epoch_and_the_version_grows(redis: Redis) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 1), b'{"share": 100}')
    owner.put("acme", "mail", (1, 2), b"two words")
    await owner.settle()
    await owner.settle()
    assert await read_all(redis, "acme") == {
        "sms": Mirrored("acme", "sms", (1, 1), b'{"share": 100}'),
        "mail": Mirrored("acme", "mail", (1, 2), b"two words"),
    }
    assert await version(redis, "acme") == 2
    assert await version(redis, "nobody") == 0


async def test_an_epoch_never_goes_back_whoever_writes_in_whatever_order(redis: Redis) -> None:
    epochs = [(generation, count) for generation in (1, 2, 10) for count in (1, 9, 10, 11)]
    shuffled = epochs * 3
    random.Random(5).shuffle(shuffled)
    owners = [owner_of(redis) for _ in range(3)]
    highest = (0, 0)
    for number, epoch in enumerate(shuffled):
        owners[number % 3].put("acme", "sms", epoch, str(epoch).encode())
        await owners[number % 3].settle()
        highest = max(highest, epoch)
        assert (await read_all(redis, "acme"))["sms"].epoch == highest
    assert highest == (10, 11)


async def test_a_fenced_owner_loses_and_knows_it(redis: Redis) -> None:
    old, new = owner_of(redis), owner_of(redis)
    new.put("acme", "sms", (2, 1), b"new")
    await new.settle()
    old.put("acme", "sms", (1, 99), b"old")
    await old.settle()
    assert (await read_all(redis, "acme"))["sms"].value == b"new"
    assert (old.lost, new.lost) == (1, 0)


async def test_an_owner_does_not_let_its_own_epoch_go_back(redis: Redis) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 5), b"five")
    owner.put("acme", "sms", (1, 4), b"four")
    await owner.settle()
    assert (await read_all(redis, "acme"))["sms"].value == b"five"


async def test_a_name_with_a_space_is_refused(redis: Redis) -> None:
    with pytest.raises(Invalid, match="bad_mirror_key"):
        owner_of(redis).put("acme", "two words", (1, 1), b"")


async def test_a_subscriber_gets_what_was_there_and_what_comes(redis: Redis, redis_url: str) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 1), b"before")
    await owner.settle()
    async with following(redis_url) as (_, seen):
        await until(holds(seen, ("acme", "sms"), b"before"), "what was there")
        owner.put("acme", "sms", (1, 2), b"after")
        owner.put("other", "mail", (1, 1), b"new group")
        await owner.settle()
        await until(holds(seen, ("acme", "sms"), b"after"), "the change", 1)
        await until(holds(seen, ("other", "mail"), b"new group"), "the new group", 1)


async def _unannounced(redis: Redis, value: bytes, epoch: str) -> int:
    await redis.hset(records_key("acme"), "sms", f"{epoch} ".encode() + value)
    return int(await redis.incr(version_key("acme")))


async def test_a_lost_announcement_heals_by_the_version_of_any_reply_and_without_one(
    redis: Redis, redis_url: str
) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 1), b"one")
    await owner.settle()
    async with following(redis_url) as (subscriber, seen):
        await until(holds(seen, ("acme", "sms"), b"one"), "the first record")
        subscriber.noticed("acme", await _unannounced(redis, b"two", "1 2"))
        await until(holds(seen, ("acme", "sms"), b"two"), "the reply's version revealed it", 0.4)
        await _unannounced(redis, b"three", "1 3")
        await until(holds(seen, ("acme", "sms"), b"three"), "the periodical look revealed it", 3)


async def test_a_gap_between_announcements_reads_the_group_again(redis: Redis, redis_url: str) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 1), b"one")
    await owner.settle()
    async with following(redis_url) as (_, seen):
        await until(holds(seen, ("acme", "sms"), b"one"), "the first record")
        await _unannounced(redis, b"missed", "1 2")
        owner.put("acme", "mail", (1, 3), b"next")
        await owner.settle()
        await until(holds(seen, ("acme", "mail"), b"next"), "the next announcement", 0.5)
        await until(holds(seen, ("acme", "sms"), b"missed"), "what the gap hid", 0.4)


async def test_a_reordered_announcement_does_not_take_a_reader_back(redis: Redis, redis_url: str) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (2, 7), b"new")
    await owner.settle()
    async with following(redis_url) as (_, seen):
        await until(holds(seen, ("acme", "sms"), b"new"), "the record")
        await redis.publish(CHANNEL, b"acme sms 1 2 6 old")
        owner.put("acme", "mail", (2, 8), b"after it")
        await owner.settle()
        await until(holds(seen, ("acme", "mail"), b"after it"), "the announcement behind it")
        assert seen["acme", "sms"].value == b"new"


async def test_a_flush_is_refilled_from_the_owners_memory(redis: Redis, redis_url: str) -> None:
    owner = owner_of(redis)
    for number in range(3):
        owner.put("acme", f"c{number}", (1, number + 1), b"kept")
    await owner.settle()
    task = asyncio.create_task(owner.run())
    async with following(redis_url) as (_, seen):
        await until(holds(seen, ("acme", "c2"), b"kept"), "the record")
        await redis.flushdb()

        async def refilled() -> bool:
            return len(await read_all(redis, "acme")) == 3

        await until(refilled, "the refill", 5)
        owner.put("acme", "c2", (1, 4), b"later")
        await until(holds(seen, ("acme", "c2"), b"later"), "the reader goes on", 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_record_that_was_given_up_is_not_refilled(redis: Redis) -> None:
    owner = owner_of(redis)
    owner.put("acme", "sms", (1, 1), b"mine")
    owner.put("acme", "mail", (1, 2), b"mine")
    await owner.settle()
    owner.forget("acme", "sms")
    await redis.flushdb()
    await owner.settle()
    assert set(await read_all(redis, "acme")) == {"mail"}


async def test_without_redis_nobody_fails_and_all_is_told_once_it_is_back(tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path / "redis")
    with server:
        client = connect(server.url)
        owner = owner_of(client)
        task = asyncio.create_task(owner.run())
        owner.put("acme", "mail", (1, 1), b"unchanged")
        owner.put("acme", "sms", (1, 1), b"one")
        async with following(server.url) as (subscriber, seen):
            await until(holds(seen, ("acme", "sms"), b"one"), "the record")
            server.stop()
            owner.put("acme", "sms", (1, 2), b"two")

            async def both_know() -> bool:
                return owner.away and subscriber.away

            await until(both_know, "both noticed the outage")
            assert seen["acme", "sms"].value == b"one", "the last record stays in force"
            server.start()
            await until(holds(seen, ("acme", "sms"), b"two"), "the record after the outage", 10)
            assert not owner.away
            assert set(await read_all(client, "acme")) == {"mail", "sms"}, (
                "what was not changed meanwhile came back too"
            )
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.aclose()
