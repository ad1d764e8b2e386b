"""Where a command goes, and how the executor gets to work: refusals without a call, messages, wake-ups, the drain."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import uuid4

import pytest

from chassis.testing.harness import until
from contracts.events.health import RouteState
from providers.sdk import HttpResponse

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PHONE = "+15005550006"


async def test_a_refund_that_makes_no_sense_is_refused_without_a_call(desk: Any, kit: Any) -> None:
    connection = await desk.connect(kit.payer)
    payment = await desk.pay(kit.payer, connection, amount=1000, amount_refunded=400)
    unknown_amount = await desk.pay(kit.payer, connection, external_id="p2", amount=None)
    cases = [
        (desk.refund(uuid4()), "unknown_payment"),
        (desk.refund(payment, tenant="t2"), "unknown_payment"),
        (desk.refund(payment, amount=601), "amount_exceeds_payment"),
        (desk.refund(unknown_amount), "amount_unknown"),
        (desk.refund(await desk.pay(kit.payer, uuid4(), external_id="p3")), "no_connection"),
        (desk.refund(await desk.pay(kit.texter, await desk.connect(kit.texter), external_id="p4")), "not_offered"),
    ]
    for number, (command, code) in enumerate(cases):
        answer = await desk.run(command.model_copy(update={"effect_key": f"k{number}"}))
        assert (answer.status, answer.code) == ("refused", code)
    assert not desk.client.calls


async def test_a_refund_without_an_amount_returns_what_is_left_and_keeps_to_it(desk: Any, kit: Any) -> None:
    connection = await desk.connect(kit.payer)
    payment = await desk.pay(kit.payer, connection, amount=1000, amount_refunded=400)
    await desk.run(desk.refund(payment), kit.unsent)
    async with desk.database.connection() as database:
        await database.execute("UPDATE payments SET amount_refunded = 900")
    await desk.run(desk.refund(payment, 2), kit.answered(200, {"id": "re_1"}))
    assert [request.json["amount"] for _, request in desk.client.calls] == ["600", "600"]


async def test_a_message_goes_to_the_customer_over_a_provider_that_is_up(desk: Any, kit: Any) -> None:
    payment = await desk.pay(kit.payer, await desk.connect(kit.payer), phone=PHONE)
    await desk.connect(kit.texter)
    await desk.connect(kit.other)
    desk.route(RouteState.DOWN, 1, kit.texter)
    sent = await desk.run(desk.message(payment), kit.answered(200, {"id": "SM1"}))
    assert (sent.status, sent.provider) == ("applied", "othertext")
    ((_, request),) = desk.client.calls
    assert request.json["recipient"] == PHONE
    reference = desk.message(payment).effect_key[:8].upper()
    assert request.json["text"] == f"Refunded. Ref {reference}", "the read-back finds it by this"
    assert PHONE not in str(await desk.answers())
    assert PHONE not in str(await desk.effect(desk.message(payment)))


async def test_a_message_without_recipient_or_connection_is_refused(desk: Any, kit: Any) -> None:
    silent = await desk.pay(kit.payer, await desk.connect(kit.payer))
    assert (await desk.run(desk.message(silent))).code == "no_recipient"
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    known = await desk.pay(kit.payer, await desk.connect(kit.payer, "other"), phone=PHONE, external_id="p2")
    await desk.connect(kit.texter, tenant="t2")
    assert (await desk.run(desk.message(known))).code == "no_connection"


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_commit_starts_the_call_and_a_lost_wake_up_is_repaired(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    command = desk.refund(payment)
    desk.client.script = [kit.answered(429), kit.answered(200, {"id": "re_1"})]
    task = asyncio.create_task(desk.executor.run())

    async def number_of_answers() -> int:
        return len(await desk.answers())

    async def has(number: int) -> bool:
        return await number_of_answers() == number

    try:
        await desk.take(command)
        await until(lambda: has(1), "the commit wakes the executor")
        desk.desk.wake = lambda _effect: None
        await desk.take(desk.refund(payment, 2))
        assert await number_of_answers() == 1

        async def repaired() -> bool:
            desk.later(seconds=2)
            return await has(2)

        await until(repaired, "the repair scan finds the effect")
    finally:
        await _stop(task)
    assert [one.status for one in await desk.answers()] == ["transient", "applied"]


async def test_a_drain_waits_for_the_call_in_flight_and_starts_no_other(desk: Any, kit: Any) -> None:
    first, second = [await desk.pay(kit.payer, await desk.connect(kit.payer, ref), external_id=ref) for ref in "ab"]
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def held() -> HttpResponse:
        arrived.set()
        await go_on.wait()
        result: HttpResponse = kit.answered(200, {"id": "re_1"})
        return result

    desk.client.script = [held]
    executor = desk.new_executor(width=1)
    task = asyncio.create_task(executor.run())
    try:
        await desk.take(desk.refund(first))
        await arrived.wait()
        drain = asyncio.create_task(executor.drain())
        await asyncio.sleep(0)
        await desk.take(desk.refund(second).model_copy(update={"effect_key": "other"}))
        assert not drain.done()
        go_on.set()
        await drain
        assert [one.status for one in await desk.answers()] == ["applied"]
        assert len(desk.client.calls) == 1
    finally:
        await _stop(task)


async def test_the_customer_of_a_sandbox_payment_is_never_told_over_a_live_connection(desk: Any, kit: Any) -> None:
    tried = await desk.pay(kit.payer, await desk.connect(kit.payer, mode="sandbox"), phone=PHONE)
    await desk.connect(kit.texter)
    refused = await desk.run(desk.message(tried))
    assert (refused.code, refused.detail) == (
        "no_connection",
        "no connection of the tenant offers messaging.sms in the mode sandbox",
    )
    await desk.connect(kit.other, mode="sandbox")
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    sent = await desk.run(desk.message(tried), kit.answered(200, {"id": "SM1"}))
    assert (sent.status, sent.provider) == ("applied", "othertext")


async def test_new_work_looks_at_the_routes_of_its_own_mode(desk: Any, kit: Any) -> None:
    live = await desk.pay(kit.payer, await desk.connect(kit.payer), phone=PHONE)
    tried = await desk.pay(kit.payer, await desk.connect(kit.payer, mode="sandbox"), phone=PHONE, external_id="p2")
    for provider in (kit.texter, kit.other):
        for mode in ("live", "sandbox"):
            await desk.connect(provider, mode=mode)
    desk.route(RouteState.DOWN, 1, kit.other, mode="live")
    desk.route(RouteState.DOWN, 1, kit.texter, mode="sandbox")
    chosen = []
    for payment in (live, tried):
        desk.saga = type(desk.saga)(int=desk.saga.int + 1)
        chosen.append((await desk.run(desk.message(payment), kit.answered(200, {"id": "SM1"}))).provider)
    assert chosen == ["texter", "othertext"]
