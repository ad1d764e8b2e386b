"""How a run of catch-up ends when something is in its way, what starts one at once, and what people see of it."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.harness import rows
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import encode
from contracts.envelope import Envelope, from_record
from contracts.events.gateway import DeliveryAttributes, SourceFellSilent
from contracts.ids import uuid7
from providers.sdk import HttpResponse
from sync_worker.catchup.routes import CatchUpApi, catch_up_routes
from sync_worker.catchup.silences import Silences
from sync_worker.outbound.path import Result

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


@pytest.mark.parametrize(
    ("meaning", "status", "again_h"), [("missing_scope", 403, 1), ("refused", 404, 1), ("unclear", 503, 0)]
)
async def test_a_refusal_is_an_error_and_never_no_data(world: Any, meaning: str, status: int, again_h: int) -> None:
    await world.missed()
    world.line.answers.append(Result(meaning, "", "", HttpResponse(status, {}, {"data": []})))
    await world.engine().step()
    cursor = await world.cursor()
    assert cursor["error"] == f"{meaning}: the provider answered {status}"
    assert list(cursor["done"]) == []
    assert (cursor["due_at"] - world.clock.now() >= timedelta(hours=1)) == (again_h == 1)
    assert await world.delivered() == []
    await world.due()
    await world.engine().step()
    assert len(await world.delivered()) == 5


async def test_a_run_without_anybody_to_ask_is_logged_with_its_provider(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, Any]] = []
    await world.connect(world.by_id)
    world.clock.advance(600)
    await world.engine().step()
    async with world.database.connection() as connection:
        await connection.execute("UPDATE endpoints SET state = 'paused'")
    await world.due()
    noted = SimpleNamespace(warning=lambda event, **facts: logged.append({"event": event} | facts))
    monkeypatch.setattr("sync_worker.catchup.engine.log", noted)
    await world.engine().step()
    [told] = logged
    assert (told["event"], told["provider"], told["why"]) == ("catch_up_stopped", world.by_id, "no_endpoint")


async def test_an_answer_without_its_list_is_an_error(world: Any) -> None:
    await world.missed()
    account = await world.parts.tokens.account(world.connections[world.by_id])
    empty = HttpResponse(200, {}, {"object": "list"})
    world.line.answers.append(Result("success", "", "", empty, account=account))
    await world.engine().step()
    cursor = await world.cursor()
    assert cursor["error"].startswith("unreadable_answer")
    assert list(cursor["done"]) == []


async def test_a_silent_source_is_read_at_once(world: Any) -> None:
    connection = await world.connect(world.by_id)
    world.clock.advance(600)
    assert await world.engine().step() == 1
    await world.send(world.by_id, 3, {0, 1, 2})
    world.clock.advance(130)
    assert await world.engine().step() == 0
    woken: list[bool] = []
    (endpoint,) = await rows(world.database.dsn, "SELECT id FROM endpoints WHERE connection = $1", connection)
    now = world.clock.now()
    silent = SourceFellSilent(endpoint=endpoint["id"], tenant="t1", provider=world.by_id, last_at=now, at=now)
    message = Message(
        Envelope("1", "gateway", SourceFellSilent.TYPE, encode(silent)), b"ep", Origin("gateway.silences.v1", 0, 0), []
    )
    async with world.database.unit_of_work() as uow:
        await Silences(world.clock, lambda: woken.append(True)).handle(uow, [message])
    assert woken == [True]
    assert await world.engine().step() == 1
    assert len(await world.delivered()) == 3


async def test_a_paused_endpoint_is_not_delivered_to(world: Any) -> None:
    await world.missed()
    async with world.database.connection() as connection:
        await connection.execute("UPDATE endpoints SET state = 'paused'")
    await world.engine().step()
    assert (await world.cursor())["error"].startswith("no_endpoint")
    assert await world.delivered() == []


async def test_api_shows_the_cursor_and_starts_a_run(world: Any, issuer: LocalIssuer) -> None:
    await world.missed()
    woken: list[bool] = []
    served = catch_up_routes(CatchUpApi(world.database, world.clock, lambda: woken.append(True)), issuer.verifier())
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="ann")) as api:
        path = f"/v1/connections/{world.connections[world.by_id]}/catch-up"
        assert (await api.get(path)).json() == {"items": []}
        started = await api.post(path)
        assert (started.status_code, started.json()["streams"], woken) == (202, ["events"], [True])
        await world.engine().step()
        (one,) = (await api.get(path)).json()["items"]
        assert (one["found"], one["missed"], one["calls_today"], one["calls_budget"]) == (20, 5, 5, 500)
        assert one["complete_until"] is not None
        assert await world.engine().step() == 0
        since = (world.clock.now() - timedelta(minutes=10)).isoformat()
        assert (await api.post(path, json={"since": since})).status_code == 202
        assert await world.engine().step() == 1
        (one,) = (await api.get(path)).json()["items"]
        assert (one["missed"], one["calls_today"]) == (5, 10), "what was delivered once is not delivered again"
        later = (world.clock.now() + timedelta(days=1)).isoformat()
        assert (await api.post(path, json={"since": later})).status_code == 422
        assert (await api.get(f"/v1/connections/{uuid7()}/catch-up")).status_code == 404
        viewer = issuer.headers(Role.VIEWER)
        assert (await api.post(path, headers=viewer)).status_code == 403


async def test_a_revoked_connection_has_no_cursor(world: Any) -> None:
    await world.connect(world.by_id)
    world.clock.advance(600)
    await world.engine().step()
    async with world.database.connection() as connection:
        await connection.execute("UPDATE connections SET state = 'revoked'")
    assert await world.engine().step() == 0
    assert await rows(world.database.dsn, "SELECT 1 FROM cursors") == []


async def test_an_answer_that_may_be_cut_off_is_read_in_halves(world: Any, paged: Any) -> None:
    paged(page_size=100, cap=8)
    missed = await world.missed()
    await world.engine().step()
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    cursor = await world.cursor()
    assert (cursor["error"], cursor["missed"]) == ("", 5)
    assert len(list(cursor["done"])) == 1, "the halves are one span again"


async def test_an_answer_that_is_always_cut_off_is_an_error(world: Any, paged: Any) -> None:
    paged(page_size=100, cap=1)
    await world.missed()
    await world.engine().step()
    assert (await world.cursor())["error"].startswith("truncated")


async def test_an_event_that_nobody_can_read_is_delivered_as_such_and_stops_nothing(world: Any) -> None:
    await world.connect(world.by_id)
    world.clock.advance(60)
    world.sandbox.world.note_event(world.by_id, b'{"odd":1}')
    await world.send(world.by_id, 2, {0, 1})
    world.clock.advance(300)
    await world.engine().step()
    facts = [DeliveryAttributes.of(from_record(value, headers)) for _, _, value, headers in await world.delivered()]
    assert sum(one.eventtype == "unreadable" for one in facts) == 1
    assert len(facts) == 3
    assert (await world.cursor())["error"] == ""
