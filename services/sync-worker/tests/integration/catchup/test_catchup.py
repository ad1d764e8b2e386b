"""Missed webhooks are found in the provider's own log: exactly those, once, whoever crashes on the way."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from chassis.testing.harness import until
from contracts.envelope import from_record
from contracts.events.gateway import DeliveryAttributes
from contracts.topics import GATEWAY_EVENTS
from providers import registry

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def test_exactly_what_was_lost_is_delivered_and_what_came_is_not(world: Any) -> None:
    missed = await world.missed()
    assert len(await world.payments()) == 15
    assert await world.engine().step() == 1
    found = await world.delivered()
    envelopes = [from_record(value, headers) for _, _, value, headers in found]
    facts = [DeliveryAttributes.of(one) for one in envelopes]
    assert {one.id for one in envelopes} == missed
    assert len(envelopes) == 5
    lane = registry.get(world.by_id).webhook.lane_for(facts[0].eventtype)
    assert {(one.origin, one.lane, one.tenant, one.keyid) for one in facts} == {("reconcile", lane.value, "t1", "")}
    assert {topic for topic, *_ in found} == {GATEWAY_EVENTS[lane].name}
    assert all(key.decode() == f"t1:{one.entity}" for (_, key, _, _), one in zip(found, facts, strict=True))
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"], cursor["calls"], cursor["error"]) == (20, 5, 5, "")
    before = await world.payments()
    await world.consume(found)
    after = await world.payments()
    assert len(after) == 20
    assert {name: after[name] for name in before} == before


async def test_a_webhook_that_comes_late_is_absorbed_and_a_second_run_finds_nothing(world: Any) -> None:
    await world.missed()
    await world.engine().step()
    await world.consume(await world.delivered())
    before = await world.payments()
    for one in world.sandbox.world.events:
        await world.arrive(world.by_id, one.body)
    assert await world.payments() == before
    world.clock.advance(901)
    assert await world.engine().step() == 1
    assert len(await world.delivered()) == 5
    assert await world.engine().step() == 0, "it is not due before its interval is over"


async def test_a_killed_worker_costs_a_page_not_a_run(world: Any) -> None:
    missed = await world.missed()
    world.line.kill_at = 3
    with pytest.raises(world.killed):
        await world.engine("w1").step()
    assert len(world.line.requests) == 3
    kept = {from_record(value, headers).id for _, _, value, headers in await world.delivered()}
    assert kept < missed
    assert await world.engine("w2").step() == 0, "the lease of the killed one still holds"
    await world.lapse()
    second = world.another_line()
    assert await world.engine("w2", second).step() == 1
    assert [request.query.get("starting_after", "") != "" for request in second.requests] == [True, True, True]
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert len(await world.delivered()) == 5
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"], cursor["calls"]) == (20, 5, 6)


async def test_an_expired_page_falls_back_to_its_window(world: Any) -> None:
    missed = await world.missed(world.by_cursor)
    world.line.kill_at = 4
    with pytest.raises(world.killed):
        await world.engine().step()
    assert (await world.cursor())["page_cursor"]
    await world.lapse()
    world.clock.advance(600)
    second = world.another_line()
    assert await world.engine("w2", second).step() == 1
    assert "cursor" not in second.requests[0].json, "the vendor has forgotten that page"
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert len(await world.delivered()) == 5
    assert (await world.cursor())["error"] == ""
    enable = registry.get(world.by_cursor).manifest.feeds[0].enable
    assert enable is not None
    assert [request.path for request in world.line.requests].count(enable.path) == 1
    assert enable.path not in [request.path for request in second.requests], "once is enough"


async def test_a_page_that_the_provider_refuses_is_read_anew(world: Any) -> None:
    missed = await world.missed()
    world.line.kill_at = 3
    with pytest.raises(world.killed):
        await world.engine().step()
    await world.lapse()
    async with world.database.connection() as connection:
        await connection.execute("UPDATE cursors SET page_cursor = 'gone'")
    assert await world.engine("w2").step() == 1
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert (await world.cursor())["error"] == ""


async def test_a_spent_budget_ends_the_day_and_the_next_one_goes_on(world: Any, paged: Any) -> None:
    paged(page_size=1, calls_per_day=24)
    await world.missed(number=30)
    await world.engine().step()
    cursor = await world.cursor()
    assert (cursor["calls"], len(world.line.requests)) == (24, 24)
    assert cursor["error"].startswith("budget")
    assert cursor["due_at"] == world.clock.now().replace(hour=0, minute=0, second=0) + timedelta(days=1)
    assert list(cursor["done"]) == []
    world.clock.advance(86_400)
    await world.engine().step()
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"], cursor["error"]) == (30, 5, "")


async def test_two_workers_make_one_run(world: Any) -> None:
    await world.missed()
    first, second = world.engine("w1"), world.engine("w2")
    done = await asyncio.gather(first.step(), second.step())
    assert sum(done) == 1
    assert len(world.line.requests) == 5
    assert len(await world.delivered()) == 5


async def test_a_worker_that_slept_through_its_lease_keeps_nothing(world: Any) -> None:
    await world.missed()
    held = world.another_line(asyncio.Event())
    slow = asyncio.create_task(world.engine("slow", held).step())

    async def asking() -> bool:
        return bool(held.requests)

    await until(asking, "the first worker asks")
    await world.lapse()
    assert await world.engine("w2").step() == 1
    assert held.hold is not None
    held.hold.set()
    await slow
    assert len(held.requests) == 1
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"]) == (20, 5)
    assert len(await world.delivered()) == 5
