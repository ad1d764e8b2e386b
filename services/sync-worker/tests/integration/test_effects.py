"""Every row of the effect table (sync-worker.md §4.5): one effect per key, whatever happens to whom."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from chassis.testing.harness import rows, until
from contracts.events.health import RouteState
from providers.sdk import HttpResponse

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

OK = {"id": "re_1"}


async def test_an_applied_effect_is_answered_once_more_for_every_replay_with_one_call(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    first = await desk.run(desk.refund(payment), kit.answered(200, OK))
    assert (first.status, first.provider, first.provider_ref) == ("applied", "payer", "re_1")
    assert first.result == {"status": "done"}
    again = [await desk.run(desk.refund(payment, attempt)) for attempt in (1, 2)]
    assert [(one.status, one.provider_ref, one.attempt) for one in again] == [
        ("applied", "re_1", 1),
        ("applied", "re_1", 2),
    ]
    ((provider, request),) = desk.client.calls
    assert request.headers["Idempotency-Key"] == desk.refund(payment).effect_key
    assert provider.slug == "payer"


async def test_a_refusal_is_final_and_has_the_providers_code(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    refused = await desk.run(desk.refund(payment), kit.answered(402, {"code": "charge_already_refunded"}))
    assert (refused.status, refused.code) == ("refused", "charge_already_refunded")
    again = await desk.run(desk.refund(payment, 2))
    assert (again.status, again.code, len(desk.client.calls)) == ("refused", "charge_already_refunded", 1)


async def test_what_was_provably_not_applied_is_sent_again_with_the_same_key(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    throttled = await desk.run(desk.refund(payment), kit.answered(429, retry_after_s=7))
    assert (throttled.status, throttled.retry_after_s) == ("transient", 7)
    unsent = await desk.run(desk.refund(payment, 2), kit.unsent)
    assert (unsent.status, unsent.code) == ("transient", "connect_error")
    assert (await desk.effect(desk.refund(payment))).state == "reserved"
    assert (await desk.run(desk.refund(payment, 3), kit.answered(200, OK))).status == "applied"
    assert len({request.headers["Idempotency-Key"] for _, request in desk.client.calls}) == 1


async def test_a_refused_credential_waits_for_a_person_and_loses_nothing(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    refused = await desk.run(desk.refund(payment), kit.answered(401))
    assert (refused.status, refused.code) == ("transient", "credential_refused")
    waits = await desk.run(desk.refund(payment, 2))
    assert (waits.status, waits.code, len(desk.client.calls)) == ("transient", "needs_reauth", 1)
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE connections SET state = 'live'")
    assert (await desk.run(desk.refund(payment, 3), kit.answered(200, OK))).status == "applied"


async def test_a_missing_permission_limits_the_connection_by_name_and_stops_nothing_else(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    refused = await desk.run(desk.refund(payment), kit.answered(403))
    assert (refused.status, refused.code) == ("transient", "missing_scope")
    (connection,) = await rows(desk.database.dsn, "SELECT state, reason FROM connections")
    assert (connection["state"], connection["reason"]) == ("limited", "scope missing: payment.refund")
    assert (await desk.run(desk.refund(payment, 2), kit.answered(200, OK))).status == "applied"


@pytest.mark.parametrize("kind", ["timeout", "no answer", 500, 503, 408, 409, "unreadable", "redirect"])
async def test_an_unknown_outcome_is_asked_about_and_never_sent_again_blindly(desk: Any, kit: Any, kind: Any) -> None:
    results = {
        "timeout": kit.unanswered,
        "no answer": kit.broken,
        "unreadable": kit.answered(200, {"what": "is this"}),
        "redirect": kit.answered(302),
    }
    payment = await desk.refundable()
    unknown = await desk.run(desk.refund(payment), results.get(kind) or kit.answered(kind, {"code": "busy"}))
    assert unknown.status == "unknown"
    assert unknown.retry_after_s
    found = await desk.run(desk.refund(payment, 2), kit.answered(200, OK))
    assert (found.status, found.provider_ref, desk.client.methods) == ("applied", "re_1", ["POST", "GET"])


async def test_an_effect_that_the_provider_does_not_have_is_sent_once_its_lag_is_over(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    await desk.run(desk.refund(payment), kit.unanswered)
    early = await desk.run(desk.refund(payment, 2), kit.answered(200, {"id": ""}))
    assert (early.status, early.code) == ("unknown", "read_back_too_early")
    desk.later(seconds=10)
    done = await desk.run(desk.refund(payment, 3), kit.answered(200, {"id": ""}), kit.answered(200, OK))
    assert (done.status, desk.client.methods) == ("applied", ["POST", "GET", "GET", "POST"])


@pytest.mark.parametrize("answer", [{"more": True}, {"what": "is this"}, None])
async def test_a_read_back_that_proves_nothing_is_answered_and_tried_again(desk: Any, kit: Any, answer: Any) -> None:
    payment = await desk.refundable()
    await desk.run(desk.refund(payment), kit.unanswered)
    result = kit.answered(200, answer) if answer else kit.unanswered
    unsure = await desk.run(desk.refund(payment, 2), result)
    assert (unsure.status, unsure.attempt, bool(unsure.retry_after_s)) == ("unknown", 2, True)
    assert (await desk.run(desk.refund(payment, 3), kit.answered(200, OK))).status == "applied"


async def test_without_a_key_lifetime_and_read_back_a_person_settles_it(desk: Any, kit: Any) -> None:
    payment = await desk.refundable(kit.mute)
    await desk.run(desk.refund(payment), kit.unanswered)
    stuck = await desk.run(desk.refund(payment, 2))
    assert (stuck.status, stuck.code, stuck.retry_after_s) == ("unknown", "needs_settlement", None)
    assert len(desk.client.calls) == 1


async def test_a_read_back_that_one_account_cannot_give_needs_a_person_too(desk: Any, kit: Any) -> None:
    payment = await desk.refundable(kit.payer, "mute")
    await desk.run(desk.refund(payment), kit.unanswered)
    assert (await desk.run(desk.refund(payment, 2))).code == "needs_settlement"


async def test_inside_the_keys_lifetime_it_is_sent_again_with_the_same_key(desk: Any, kit: Any) -> None:
    payment = await desk.refundable(kit.mute, options={"idempotency_lifetime_h": "24"})
    await desk.run(desk.refund(payment), kit.unanswered)
    desk.later(hours=23)
    done = await desk.run(desk.refund(payment, 2), kit.answered(200, OK))
    assert (done.status, desk.client.methods) == ("applied", ["POST", "POST"])
    assert len({request.headers["Idempotency-Key"] for _, request in desk.client.calls}) == 1


async def test_a_failed_resend_proves_nothing_and_does_not_renew_the_keys_lifetime(desk: Any, kit: Any) -> None:
    payment = await desk.refundable(kit.mute, options={"idempotency_lifetime_h": "24"})
    late = desk.refund(payment, deadline=desk.clock.now() + timedelta(hours=20))
    await desk.run(late, kit.unanswered)
    for attempt, result in enumerate([kit.unsent, kit.answered(429), kit.answered(403)], start=2):
        desk.later(hours=7)
        answer = await desk.run(desk.refund(payment, attempt), result)
        assert answer.status == "unknown", "the first request may have been applied, whatever became of this one"
    desk.later(hours=4)
    stuck = await desk.run(desk.refund(payment, 5))
    assert (stuck.status, stuck.code, len(desk.client.calls)) == ("unknown", "needs_settlement", 4)


async def test_a_worker_that_died_in_the_call_is_followed_by_a_question(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    command = desk.refund(payment)
    desk.client.script = [asyncio.CancelledError("killed"), kit.answered(200, OK)]
    await desk.take(command)
    with pytest.raises(asyncio.CancelledError):
        await desk.execute(command.effect_key)
    assert (await desk.effect(command)).state == "sent", "it was committed before the request left"
    await desk.work(command.effect_key)
    assert len(desk.client.calls) == 1, "while the lease runs, the other worker may still be at it"
    desk.later(seconds=16)
    await desk.work(command.effect_key)
    assert ((await desk.answers())[-1].status, desk.client.methods) == ("applied", ["POST", "GET"])


async def test_a_worker_that_lost_its_lease_keeps_quiet(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    command = desk.refund(payment)

    async def slow() -> HttpResponse:
        desk.later(seconds=16)
        await desk.execute(command.effect_key)
        late: HttpResponse = kit.answered(402, {"code": "too_late"})
        return late

    desk.client.script = [slow, kit.answered(200, OK)]
    await desk.take(command)
    await desk.execute(command.effect_key)
    assert [one.status for one in await desk.answers()] == ["applied"]
    assert (await desk.effect(command)).state == "applied"


async def test_a_shut_route_parks_before_and_after_sending(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    desk.route(RouteState.DOWN, 1)
    parked = await desk.run(desk.refund(payment))
    assert (parked.status, parked.code, bool(parked.retry_after_s)) == ("parked", "route_shut", True)
    assert ((await desk.effect(desk.refund(payment))).state, desk.client.calls) == ("reserved", [])
    desk.route(RouteState.RECOVERING, 2)
    await desk.run(desk.refund(payment, 2), kit.unanswered)
    desk.route(RouteState.DOWN, 3)
    assert (await desk.run(desk.refund(payment, 3))).status == "parked"
    assert (await desk.effect(desk.refund(payment))).state == "unknown"


async def test_a_deadline_ends_what_was_not_sent_and_nothing_else(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    command = desk.refund(payment, deadline=desk.clock.now() + timedelta(seconds=30))
    await desk.run(command, kit.unanswered)
    desk.later(seconds=60)
    assert (await desk.run(desk.refund(payment, 2), kit.answered(200, OK))).status == "applied"
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    over = await desk.run(desk.refund(payment, deadline=desk.clock.now()))
    assert (over.status, over.code) == ("refused", "expired")


async def test_one_key_for_two_requests_is_refused_and_the_first_stands(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    await desk.run(desk.refund(payment, amount=100), kit.answered(200, OK))
    other = await desk.run(desk.refund(payment, 2, amount=101))
    assert (other.status, other.code) == ("refused", "effect_key_reused")
    assert (await desk.effect(desk.refund(payment))).state == "applied"


async def test_an_undo_that_comes_first_fences_the_do(desk: Any) -> None:
    payment = await desk.refundable()
    undone = await desk.run(desk.refund(payment, direction="undo"))
    assert (undone.status, undone.direction) == ("voided", "undo")
    late = await desk.run(desk.refund(payment))
    assert (late.status, late.code, desk.client.calls) == ("refused", "fenced", [])


async def test_an_undo_voids_what_waits_and_says_so_when_it_is_too_late(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    desk.route(RouteState.DOWN, 1)
    await desk.run(desk.refund(payment))
    assert (await desk.run(desk.refund(payment, direction="undo"))).status == "voided"
    desk.route(RouteState.HEALTHY, 2)
    assert (await desk.run(desk.refund(payment, 2))).code == "fenced"
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    await desk.run(desk.refund(payment), kit.answered(200, OK))
    too_late = await desk.run(desk.refund(payment, direction="undo"))
    assert (too_late.status, too_late.code) == ("refused", "undo_not_supported")


async def test_what_can_never_be_sent_is_refused_and_holds_up_nothing(desk: Any, kit: Any) -> None:
    keyless = await desk.refundable(kit.payer, secrets={"webhook": "w"})
    refused = await desk.run(desk.refund(keyless))
    assert (refused.status, refused.code, desk.client.calls) == ("refused", "missing_secret", [])
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    connection = await desk.connect(kit.payer, "no-sender")
    unset = await desk.run(desk.refund(await desk.pay(kit.payer, connection, external_id="p2")))
    assert (unset.status, unset.code) == ("refused", "missing_option")


async def test_a_connection_that_is_revoked_meanwhile_ends_what_waits_but_not_what_was_sent(
    desk: Any, kit: Any
) -> None:
    payment = await desk.refundable()
    desk.route(RouteState.DOWN, 1)
    await desk.run(desk.refund(payment))
    desk.route(RouteState.HEALTHY, 2)
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE connections SET state = 'revoked'")
    desk.later(minutes=1)
    assert (await desk.run(desk.refund(payment, 2))).code == "no_connection"
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE connections SET state = 'live'")
    desk.later(minutes=1)
    desk.saga = type(desk.saga)(int=desk.saga.int + 1)
    await desk.run(desk.refund(payment), kit.unanswered)
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE connections SET state = 'revoked'")
    desk.later(minutes=1)
    sent = await desk.run(desk.refund(payment, 2))
    assert (sent.status, sent.code, sent.retry_after_s) == ("unknown", "needs_settlement", None)


async def test_two_workers_on_one_key_make_one_call(desk: Any, kit: Any) -> None:
    payment = await desk.refundable()
    command = desk.refund(payment)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def held() -> HttpResponse:
        arrived.set()
        await go_on.wait()
        result: HttpResponse = kit.answered(200, OK)
        return result

    desk.client.script = [held]
    await desk.take(command)
    first = asyncio.create_task(desk.execute(command.effect_key))
    await arrived.wait()
    await asyncio.gather(*(desk.execute(command.effect_key, desk.new_executor()) for _ in range(5)))
    go_on.set()
    await first
    assert len(desk.client.calls) == 1
    assert [one.status for one in await desk.answers()] == ["applied"]


async def test_two_first_commands_at_once_reserve_one_effect(desk: Any) -> None:
    payment = await desk.refundable()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with desk.database.unit_of_work() as uow:
        await desk.desk.take(uow, [(desk.refund(payment, 2), "")])
        other = asyncio.create_task(desk.take(desk.refund(payment, 1)))
        await until(lambda: rows(desk.database.dsn, waiting), "the other member waits")
    await other
    effect = await desk.effect(desk.refund(payment))
    assert effect.attempt == 2, "the late first attempt found the effect and did not begin it again"
