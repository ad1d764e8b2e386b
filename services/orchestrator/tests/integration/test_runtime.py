"""Runs on a real database: state, timeline, timers and commands move together; the API starts and shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, migrated_dsn, schema_differences
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.orchestrator import SagaAdvanced
from contracts.events.platform import AuditRecorded
from contracts.events.sync import PaymentChanged
from contracts.ids import effect_key
from contracts.topics import ORCHESTRATOR_SAGA_EVENTS, PLATFORM_AUDIT
from orchestrator.handlers import Handlers
from orchestrator.routes import Api, routes

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

SAGA = "/v1/sagas/refund-and-notify"


async def outgoing(database: Database, topic: str) -> list[bytes]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", topic)
    return [row["value"] for row in found]


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "orchestrator")
    assert await schema_differences(dsn, "orchestrator") == []


async def test_a_business_key_has_one_run_even_when_started_at_once(bench: Any) -> None:
    payment = uuid4()
    started = await asyncio.gather(*(bench.start(payment) for _ in range(5)))
    assert sorted(is_new for _, is_new in started) == [False] * 4 + [True]
    assert len({saga.id for saga, _ in started}) == 1
    (command,) = await bench.commands()
    assert (command.step, command.attempt, command.payment_id) == ("refund", 1, payment)
    assert command.effect_key == effect_key(str(command.saga_id), "refund", "do")
    assert (await bench.start(uuid4()))[1] is True


async def test_a_run_from_start_to_end_with_its_story(bench: Any) -> None:
    saga, _ = await bench.start(amount=500, message="Sorry.")
    await bench.answer(saga.id, "refund", "applied", provider="payer", provider_ref="re_1", result={"amount": 500})
    await bench.answer(saga.id, "notify", "applied", provider="texter", provider_ref="SM1")
    refund, notify = await bench.commands()
    assert (refund.amount, refund.reason, notify.text) == (500, "requested_by_customer", "Sorry.")
    shown = await bench.show(saga.id)
    assert (shown["status"], shown["timers"]) == ("completed", [])
    assert shown["steps"]["refund"]["provider_ref"] == "re_1"
    story = [entry["entry"] for entry in shown["timeline"]]
    assert story == ["started", "command_given", "step_done", "command_given", "step_done", "saga_completed"]
    told = [decode(SagaAdvanced, value) for value in await outgoing(bench.database, ORCHESTRATOR_SAGA_EVENTS.name)]
    assert [(one.seq, one.entry) for one in told] == list(enumerate(story, start=1))
    assert told[-1].status == "completed"
    (audit,) = [decode(AuditRecorded, value) for value in await outgoing(bench.database, PLATFORM_AUDIT.name)]
    assert (audit.actor, audit.action, audit.target) == ("ann", "saga.started", f"saga/{saga.id}")


async def test_a_refused_refund_fails_the_run_and_nobody_is_told(bench: Any) -> None:
    saga, _ = await bench.start()
    await bench.answer(saga.id, "refund", "refused", code="charge_already_refunded")
    assert (await bench.show(saga.id))["status"] == "failed"
    assert [command.step for command in await bench.commands()] == ["refund"]


async def test_a_message_that_cannot_be_sent_waits_and_goes_out_later_once(bench: Any) -> None:
    saga, _ = await bench.start()
    await bench.answer(saga.id, "refund", "applied")
    for attempt in (1, 2):
        await bench.answer(saga.id, "notify", "parked", attempt, retry_after_s=5, code="route_shut")
        shown = await bench.show(saga.id)
        assert (shown["status"], [timer["attempt"] for timer in shown["timers"]]) == ("waiting", [attempt])
        bench.clock.advance(4)
        assert await bench.poller.fire_due() == 0, "not before its time"
        bench.clock.advance(2)
        assert await bench.poller.fire_due() == 1
    await bench.answer(saga.id, "notify", "applied", 3)
    await bench.answer(saga.id, "notify", "applied", 3)
    assert (await bench.show(saga.id))["status"] == "completed"
    notified = [command for command in await bench.commands() if command.step == "notify"]
    assert [command.attempt for command in notified] == [1, 2, 3]
    assert len({command.effect_key for command in notified}) == 1


async def test_two_replicas_fire_a_timer_once(bench: Any) -> None:
    sagas = [(await bench.start())[0] for _ in range(3)]
    for saga in sagas:
        await bench.answer(saga.id, "refund", "transient", retry_after_s=1)
    bench.clock.advance(2)
    await asyncio.gather(*(bench.poller.fire_due() for _ in range(4)))
    given = [(command.saga_id, command.attempt) for command in await bench.commands()]
    assert sorted(given) == sorted((saga.id, attempt) for saga in sagas for attempt in (1, 2))


async def test_a_run_whose_definition_is_gone_holds_up_no_other_timer(bench: Any) -> None:
    sick, well = [(await bench.start())[0] for _ in range(2)]
    await bench.answer(sick.id, "refund", "transient", retry_after_s=1)
    await bench.answer(well.id, "refund", "transient", retry_after_s=2)
    async with bench.database.connection() as connection:
        await connection.execute("UPDATE sagas SET version = 99 WHERE id = $1", sick.id)
    bench.clock.advance(3)
    await bench.poller.fire_due()
    assert [(c.saga_id, c.attempt) for c in await bench.commands()][2:] == [(well.id, 2)]
    assert (await bench.show(sick.id))["timers"], "it is tried again, when somebody may have repaired it"
    assert await bench.poller.fire_due() == 0
    async with bench.database.connection() as connection:
        await connection.execute("UPDATE sagas SET version = 1 WHERE id = $1", sick.id)
    bench.clock.advance(61)
    await bench.poller.fire_due()
    assert (await bench.commands())[-1].saga_id == sick.id


async def test_an_answer_for_a_run_that_nobody_knows_does_no_harm(bench: Any) -> None:
    await bench.answer(uuid4(), "refund", "applied")
    assert await bench.commands() == []


def disputed(payment: UUID, event: str) -> Message:
    changed = PaymentChanged(
        payment_id=payment,
        tenant="t1",
        connection=uuid4(),
        provider="payer",
        external_id="p1",
        status="disputed",
        previous_status="succeeded",
        occurred_at="2026-03-01T00:00:00Z",
        version=2,
        cause="e1",
    )
    envelope = Envelope(event, "patchbay/sync-worker", changed.TYPE, encode(changed))
    return Message(envelope, b"k", Origin("sync.changes.v1", 0, 0), [])


async def test_a_dispute_starts_one_run_however_often_it_is_told(bench: Any) -> None:
    payment = uuid4()
    for event in ("e1", "e2"):
        async with bench.database.unit_of_work() as uow:
            await Handlers(bench.runtime).changes(uow, [disputed(payment, event), disputed(payment, event)])
    (command,) = await bench.commands()
    assert (command.payment_id, command.reason) == (payment, "disputed")


@pytest_asyncio.fixture
async def api(bench: Any, issuer: LocalIssuer) -> AsyncIterator[httpx.AsyncClient]:
    app = routes(Api(bench.database, bench.runtime), issuer.verifier())
    async with api_client(app, issuer.headers(Role.OPERATOR, subject="ann")) as client:
        yield client


async def test_a_start_is_202_and_the_same_key_again_is_200(api: httpx.AsyncClient, bench: Any) -> None:
    body = {"tenant": "t1", "payment_id": str(uuid4())}
    first = await api.post(SAGA, json=body)
    again = await api.post(SAGA, json=body | {"amount": 5})
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert len(await bench.commands()) == 1
    body = {"tenant": "t1", "payment_id": str(uuid4())}
    keyed = [await api.post(SAGA, json=body, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert [one.status_code for one in keyed] == [202, 202]
    reused = await api.post(SAGA, json=body | {"amount": 1}, headers={"idempotency-key": "k"})
    assert (reused.status_code, reused.json()["code"]) == (409, "idempotency_key_reused")
    shown = (await api.get(f"/v1/sagas/{first.json()['id']}")).json()
    assert (shown["started_by"], shown["timeline"][0]["entry"]) == ("ann", "started")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"payment_id": "no-uuid"}, "payment_id"),
        ({"amount": 0}, "amount"),
        ({"amount": "five"}, "amount"),
        ({"tenant": "No Slug"}, "tenant"),
        ({"message": ""}, "message"),
        ({"reason": "x" * 65}, "reason"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_bad_start_is_422_and_names_the_field(
    api: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await api.post(SAGA, json={"tenant": "t1", "payment_id": str(uuid4())} | change)
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])


async def test_who_may_do_what_and_what_is_not_there(api: httpx.AsyncClient, issuer: LocalIssuer) -> None:
    viewer, nobody = issuer.headers(Role.VIEWER), {"authorization": ""}
    body = {"tenant": "t1", "payment_id": str(uuid4())}
    assert (await api.post(SAGA, json=body, headers=nobody)).status_code == 401
    assert (await api.post(SAGA, json=body, headers=viewer)).status_code == 403
    for path in ("/v1/sagas", f"/v1/sagas/{uuid4()}"):
        assert (await api.get(path, headers=nobody)).status_code == 401
        assert (await api.get(path, headers=issuer.headers(Role.SERVICE))).status_code == 403
    assert (await api.get("/v1/sagas", headers=viewer)).status_code == 200
    assert (await api.get(f"/v1/sagas/{uuid4()}")).status_code == 404
    assert (await api.get("/v1/sagas/no-uuid")).status_code == 404
    assert (await api.post("/v1/sagas/nobody", json=body)).status_code == 404
    assert (await api.get("/v1/sagas", params={"status": "odd"})).json()["errors"][0]["field"] == "status"


async def test_the_list_shows_every_run_once_in_pages(api: httpx.AsyncClient, bench: Any) -> None:
    wanted = {str((await bench.start())[0].id) for _ in range(5)}
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2, "tenant": "t1", "status": "running"}
    while True:
        body = (await api.get("/v1/sagas", params=query)).json()
        seen += [item["id"] for item in body["items"]]
        if body["next"] is None:
            break
        query["after"] = body["next"]
    assert seen == sorted(wanted, reverse=True)
    assert (await api.get("/v1/sagas", params={"tenant": "t2"})).json()["items"] == []
