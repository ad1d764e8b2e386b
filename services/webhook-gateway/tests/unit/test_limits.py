"""Rates, slots, bytes and deadlines of one process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.clock import SystemClock
from chassis.testing.clock import ManualClock
from contracts.events.sync import RateLimit
from contracts.topics import Lane
from providers import registry
from webhook_gateway.flights import (
    RESERVED_SHARE,
    STARTS_PER_ROUND,
    TURNS,
    TURNS_BESIDE_CRITICAL,
    Bounds,
    Flights,
)
from webhook_gateway.limits import Rate

pytestmark = pytest.mark.asyncio

PATIENT = next(
    p
    for p in registry.all_providers()
    if p.manifest.webhook and p.webhook.comes_back and not p.webhook.handshakes and not p.webhook.lanes
)
PUNISHING = next(p for p in registry.all_providers() if p.manifest.webhook and not p.webhook.comes_back)


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    processes=st.integers(1, 4),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
async def test_a_fleet_never_lets_in_more_than_rate_times_time_plus_burst(
    per_s: float, burst: int, processes: int, waits: list[float]
) -> None:
    fleet = [Rate(per_s, burst) for _ in range(processes)]
    now, let_in = 0.0, 0
    for wait in waits:
        now += wait
        let_in += sum(rate.allow(now, processes) for rate in fleet)
    # Each process may begin with one, whatever its share of the burst.
    assert let_in <= per_s * now + max(burst, processes) + 1e-6 * len(waits) + 1


@given(per_s=st.floats(0.1, 1000), burst=st.integers(1, 50))
async def test_a_burst_passes_at_once_and_the_wait_is_what_it_says(per_s: float, burst: int) -> None:
    rate = Rate(per_s, burst)
    assert all(rate.allow(5.0) for _ in range(burst))
    assert not rate.allow(5.0)
    wait_s = rate.wait_s(5.0)
    assert 0 < wait_s <= 1 / per_s + 1e-6
    assert rate.allow(5.0 + wait_s + 1e-6)


async def test_an_endpoint_over_its_rate_gets_429_with_the_wait_and_is_recorded(bench: Any) -> None:
    signer = bench.connect(PATIENT, rate=RateLimit(per_s=0.5, burst=2))
    statuses = []
    for _ in range(3):
        bench.memory.seen.clear()
        reply = await bench.deliver(signer)
        statuses.append(reply.status)
    assert statuses == [PATIENT.webhook.success_status] * 2 + [429]
    assert (reply.code, reply.headers["retry-after"]) == ("rate_limited", "2")
    assert [one.reason for one in bench.rejected] == ["rate_limited"]
    bench.clock.advance(2)
    assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status


async def test_the_endpoints_of_a_tenant_share_the_tenants_rate(bench: Any) -> None:
    signers = [bench.connect(PATIENT, tenant_rate=RateLimit(per_s=1, burst=1)) for _ in range(2)]
    assert [(await bench.deliver(signer)).status for signer in signers] == [PATIENT.webhook.success_status, 429]


async def test_a_provider_that_punishes_refusals_is_let_in_over_its_rate(bench: Any) -> None:
    signer = bench.connect(PUNISHING, rate=RateLimit(per_s=0.1, burst=1))
    for _ in range(3):
        bench.memory.seen.clear()
        assert (await bench.deliver(signer)).status == PUNISHING.webhook.success_status


async def test_a_quarter_of_slots_and_bytes_is_kept_for_what_may_be_critical() -> None:
    flights = Flights(Bounds(requests=8, body_bytes=800), ManualClock())
    usual = [flights.enter(1, critical=False) for _ in range(8)]
    taken = [flight for flight in usual if flight is not None]
    assert len(taken) == 8 * (1 - RESERVED_SHARE)
    reserved = [flights.enter(1, critical=True) for _ in range(3)]
    assert [one is not None for one in reserved] == [True, True, False]
    assert flights.hold(taken[0], 600)
    assert not flights.hold(taken[1], 1)
    assert reserved[0] is not None
    assert flights.hold(reserved[0], 200)
    assert not flights.hold(reserved[0], 1)
    for flight in (*taken, *reserved[:2]):
        assert flight is not None
        flights.leave(flight)
    assert (len(flights), flights.held_bytes) == (0, 0)


async def test_without_a_slot_the_answer_is_503_and_critical_still_gets_one(make_bench: Any) -> None:
    bench = make_bench(bounds=Bounds(requests=4, body_bytes=10_000), body_timeout_s=0.5)
    bulk, critical = bench.connect(PATIENT, lane=Lane.BULK), bench.connect(PATIENT, lane=Lane.CRITICAL)
    stalled = [asyncio.create_task(bench.request(bulk.endpoint, [b"{"], [], then="stall")) for _ in range(3)]
    await asyncio.sleep(0)
    refused = await bench.deliver(bulk)
    assert (refused.status, refused.code) == (503, "unavailable")
    assert (await bench.deliver(critical)).status == PATIENT.webhook.success_status
    assert [reply.status for reply in await asyncio.gather(*stalled)] == [408] * 3


async def test_a_body_beyond_the_byte_budget_is_503_and_frees_what_it_held(make_bench: Any) -> None:
    bench = make_bench(bounds=Bounds(requests=10, body_bytes=40_000))
    signer = bench.connect(PATIENT)
    reply = await bench.request(signer.endpoint, [b"x" * 10_000] * 5, [])
    assert (reply.status, reply.code) == (503, "unavailable")
    assert bench.flights.held_bytes == 0


async def test_of_many_flights_only_the_late_ones_are_cancelled() -> None:
    flights = Flights(Bounds(1000, 1), SystemClock())
    sweeping = asyncio.create_task(flights.run())

    async def fly(needs_s: float) -> bool:
        flight = flights.enter(0.1, critical=False)
        assert flight is not None
        try:
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), needs_s)
        except TimeoutError:
            return True
        except asyncio.CancelledError:
            assert flights.landed(flight)
            # The task is not left in a cancelled state: it can wait again.
            await asyncio.sleep(0)
            return False
        finally:
            flights.leave(flight)
        return True

    landed = await asyncio.gather(*(fly(30 if n % 3 == 0 else 0.001) for n in range(60)))
    sweeping.cancel()
    assert landed == [n % 3 != 0 for n in range(60)]


async def test_a_cancellation_from_elsewhere_is_not_taken_for_a_deadline() -> None:
    flights = Flights(Bounds(10, 1), ManualClock())

    async def fly() -> None:
        flight = flights.enter(10, critical=False)
        assert flight is not None
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            assert not flights.landed(flight)
            raise

    task = asyncio.create_task(fly())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class _Works:
    """Flights that take a turn, note their number, and give it back when they are told."""

    def __init__(self) -> None:
        self.flights = Flights(Bounds(1000, 1), SystemClock())
        self.order: list[int] = []
        self.release = asyncio.Event()

    async def work(self, number: int, *, critical: bool = False) -> None:
        flight = self.flights.enter(30, critical=critical)
        assert flight is not None
        try:
            await self.flights.turn(flight)
            self.order.append(number)
            if not critical:
                await self.release.wait()
        finally:
            self.flights.leave(flight)

    def begin(self, *numbers: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.work(number)) for number in numbers]


async def _rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_turns_are_taken_in_order_and_what_may_be_critical_needs_none() -> None:
    works = _Works()
    usual = works.begin(*range(TURNS + 20))
    await _rounds(2 * TURNS // STARTS_PER_ROUND)
    assert works.order == list(range(TURNS)), "so many wait for the broker at once, and no more"
    await works.work(-1, critical=True)
    assert works.order[-1] == -1
    usual[TURNS].cancel()
    works.release.set()
    await asyncio.gather(*usual, return_exceptions=True)
    assert works.order[TURNS + 1 :] == list(range(TURNS + 1, TURNS + 20))
    assert len(works.flights) == 0
    await asyncio.gather(*works.begin(*range(TURNS)))


async def test_a_round_of_the_loop_starts_few_so_that_critical_waits_for_few() -> None:
    works = _Works()
    usual = works.begin(*range(3 * STARTS_PER_ROUND))
    seen = []
    while len(works.order) < len(usual):
        before = len(works.order)
        await asyncio.sleep(0)
        seen.append(len(works.order) - before)
    assert max(seen) <= STARTS_PER_ROUND, "a critical delivery finds no more than that before it"
    works.release.set()
    await asyncio.gather(*usual)


async def test_a_turn_that_comes_as_its_time_ends_is_passed_on() -> None:
    works = _Works()
    working = works.begin(*range(TURNS))
    await _rounds(2 * TURNS // STARTS_PER_ROUND)
    late, next_one = works.begin(TURNS, TURNS + 1)
    await asyncio.sleep(0)
    # A turn is given back and given to the first that waits; before that one runs, its deadline passes.
    working[0].cancel()
    await asyncio.sleep(0)
    late.cancel()
    await _rounds(3)
    assert works.order == [*range(TURNS), TURNS + 1], "the turn of the late one goes to the next"
    works.release.set()
    await asyncio.gather(*working, late, next_one, return_exceptions=True)
    await asyncio.gather(*works.begin(*range(TURNS)))


async def test_a_wait_for_a_turn_ends_with_503_at_the_publish_timeout(make_bench: Any) -> None:
    bench = make_bench(publish_timeout_s=0.3, body_timeout_s=5, bounds=Bounds(1000, 4_000_000))
    signer = bench.connect(PATIENT, lane=Lane.BULK)
    bench.publisher.gate.clear()
    replies = await asyncio.gather(*(bench.deliver(signer) for _ in range(TURNS + 5)))
    assert {(reply.status, reply.code) for reply in replies} == {(503, "unavailable")}
    assert len(bench.flights) == 0
    bench.publisher.gate.set()
    assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status


async def test_slow_senders_hold_no_turn(make_bench: Any) -> None:
    bench = make_bench(body_timeout_s=5, bounds=Bounds(1000, 4_000_000))
    signer = bench.connect(PATIENT, lane=Lane.BULK)
    stalled = [asyncio.create_task(bench.request(signer.endpoint, [b"{"], [], then="stall")) for _ in range(2 * TURNS)]
    await asyncio.sleep(0)
    assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status
    for task in stalled:
        task.cancel()
    await asyncio.gather(*stalled, return_exceptions=True)


async def test_few_others_are_worked_on_while_there_is_critical_traffic() -> None:
    works = _Works()
    await works.work(-1, critical=True)
    usual = works.begin(*range(TURNS))
    await _rounds(2 * TURNS // STARTS_PER_ROUND)
    assert works.order == [-1, *range(TURNS_BESIDE_CRITICAL)]
    works.release.set()
    await asyncio.gather(*usual)
    assert works.order[1:] == list(range(TURNS)), "the others come as turns are given back"
