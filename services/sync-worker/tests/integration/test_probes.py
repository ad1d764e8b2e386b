"""Probes with real credentials: who asks, how often, and what starts them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chassis.testing.harness import until
from contracts.codec import decode
from contracts.events.health import RouteChanged
from contracts.events.sync import CallsObserved
from sync_worker.outbound.probes import Prober
from sync_worker.outbound.route_table import Place

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PLACE = Place("payer", "payments")


def prober(desk: Any) -> Prober:
    return Prober(desk.database, desk.path, desk.routes, desk.clock, lambda low, _high: low)


@asynccontextmanager
async def running(one: Prober) -> AsyncIterator[None]:
    task = asyncio.create_task(one.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def number(desk: Any, wanted: int, *, step_s: float = 0.1) -> None:
    """Let time pass until so many probes were sent."""

    async def sent() -> bool:
        desk.later(seconds=step_s)
        return len(desk.client.calls) >= wanted

    await until(sent, f"{wanted} probes", 10)


def suspected(kit: Any) -> RouteChanged:
    return RouteChanged(
        provider="payer",
        capability="payments",
        epoch=(1, 1),
        state="suspect",
        share=100,
        probe="burst",
        reason="test",
        decided_at=kit.start,
    )


async def test_a_connection_that_cannot_ask_leaves_it_to_the_next(desk: Any, kit: Any) -> None:
    await desk.connect(kit.payer, "keyless", secrets={"webhook": "w"})
    await desk.connect(kit.payer, "acct-2")
    desk.client.script = [kit.answered(200, {}) for _ in range(9)]
    async with running(prober(desk)):
        await number(desk, 1)
    assert desk.client.calls[0][1].path == "/probe/acct-2"


async def test_a_quiet_provider_is_asked_every_five_seconds_and_a_suspect_one_three_times_a_second(
    desk: Any, kit: Any
) -> None:
    await desk.connect(kit.payer)
    desk.client.script = [kit.answered(200, {}) for _ in range(200)]
    async with running(prober(desk)):
        await number(desk, 1)
        started = desk.clock.monotonic()
        await number(desk, 3)
        assert 9 <= desk.clock.monotonic() - started <= 12
        desk.routes.put(suspected(kit))
        await number(desk, 4)
        started = desk.clock.monotonic()
        await number(desk, 10)
        assert desk.clock.monotonic() - started <= 4


async def test_a_suspected_provider_is_asked_three_times_at_once_and_not_when_its_next_probe_is_due(
    desk: Any, kit: Any
) -> None:
    await desk.connect(kit.payer)
    desk.client.script = [kit.answered(200, {}) for _ in range(9)]
    one = prober(desk)
    desk.routes.on_change = one.saw_route
    async with running(one):
        await number(desk, 1)
        for _ in range(4):
            one.saw_call(PLACE)
        one.saw_failure(PLACE)
        desk.routes.put(suspected(kit))
        started = desk.clock.monotonic()
        await number(desk, 4)
        assert desk.clock.monotonic() - started < 1


async def test_the_first_failure_of_a_quiet_provider_starts_three_probes_at_once(desk: Any, kit: Any) -> None:
    await desk.connect(kit.payer)
    desk.client.script = [kit.answered(200, {}) for _ in range(9)]
    one = prober(desk)
    async with running(one):
        await number(desk, 1)
        one.saw_call(PLACE)
        one.saw_failure(PLACE)
        one.saw_failure(PLACE)
        started = desk.clock.monotonic()
        await number(desk, 4)
        assert desk.clock.monotonic() - started < 2


async def test_a_busy_providers_calls_tell_soon_enough(desk: Any, kit: Any) -> None:
    await desk.connect(kit.payer)
    desk.client.script = [kit.answered(200, {}) for _ in range(9)]
    one = prober(desk)
    async with running(one):
        await number(desk, 1)
        for _ in range(5):
            one.saw_call(PLACE)
        one.saw_failure(PLACE)
        desk.later(seconds=1)
        await asyncio.sleep(0.05)  # lint-skip: PB011 what must not happen leaves nothing to wait for
        assert len(desk.client.calls) == 1


async def test_where_nobody_can_ask_each_is_tried_once_an_interval(desk: Any, kit: Any) -> None:
    for number in range(3):
        await desk.connect(kit.payer, f"acct-{number}")
    desk.client.script = [kit.answered(401) for _ in range(200)]
    one = prober(desk)
    async with running(one):
        await number_of_rounds(desk, 2)
    assert 3 <= len(desk.client.calls) <= 12, "each is asked, a refused credential renewed once, none in a loop"


async def number_of_rounds(desk: Any, rounds: int) -> None:
    """Let so many idle intervals pass, a tenth of a second at a time."""
    for _ in range(rounds * 50):
        desk.later(seconds=0.1)
        await asyncio.sleep(0.01)  # lint-skip: PB011 the prober runs in between, in the virtual clock's time


async def test_a_sandbox_connection_is_asked_for_the_sandbox_route_alone(desk: Any, kit: Any) -> None:
    await desk.connect(kit.payer, "tried", mode="sandbox")
    desk.client.script = [kit.answered(200, {}) for _ in range(200)]
    one = prober(desk)
    desk.routes.on_change = one.saw_route
    async with running(one):
        await number(desk, 1)
        desk.routes.put(suspected(kit))
        one.saw_failure(PLACE)
        desk.later(seconds=1)
        await asyncio.sleep(0.05)  # lint-skip: PB011 what must not happen leaves nothing to wait for
        assert len(desk.client.calls) == 1, "nobody can be asked for the live route"
        desk.routes.put(suspected(kit).model_copy(update={"mode": "sandbox"}))
        await number(desk, 4)
    assert {request.path for _, request in desk.client.calls} == {"/probe/tried"}
    reporter = desk.path._reporter
    await reporter.flush()
    reports = [decode(CallsObserved, sent.data) for sent in reporter._publisher.sent]
    assert {(calls.mode, run.probe, run.outcome) for calls in reports for run in calls.runs} == {
        ("sandbox", True, "success")
    }


async def test_each_mode_is_asked_by_its_own_connection(desk: Any, kit: Any) -> None:
    await desk.connect(kit.payer, "real")
    await desk.connect(kit.payer, "tried", mode="sandbox")
    desk.client.script = [kit.answered(200, {}) for _ in range(20)]
    async with running(prober(desk)):
        await number(desk, 2)
    assert {request.path for _, request in desk.client.calls[:2]} == {"/probe/real", "/probe/tried"}
