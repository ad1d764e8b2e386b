"""Missed webhooks are found in the provider's own log: exactly those, once, whoever crashes on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from chassis.claims import ClaimStore
from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.http.server import HttpServer
from chassis.kafka.loop import BatchLoop
from chassis.kafka.records import Message, Origin
from chassis.kafka.rows import unpack_headers
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows, until
from chassis.testing.ports import free_port
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import encode
from contracts.envelope import Envelope, from_record
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, SourceFellSilent
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, Lane
from providers import registry
from providers.provider import Provider
from providers.sdk import HttpResponse, InboundRequest
from sandbox.app import Sandbox
from sandbox.orders import NewDelivery
from sandbox.settings import Settings
from sync_worker.catchup.engine import CatchUp, Timing
from sync_worker.catchup.routes import CatchUpApi, catch_up_routes
from sync_worker.catchup.silences import Silences
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.handlers import Handlers
from sync_worker.models import Connection
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Plan, Result
from sync_worker.outbound.route_table import RouteTable

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PAGE = 4
SECRETS = {
    "stripe": {"webhook": "whsec_fake_test_value", "api_key": "test-api-key"},
    "square": {"webhook": "fake-signature-key", "access_token": "test-access-token"},
}
FIXTURES = {"stripe": "payment_intent.succeeded", "square": "payment.created"}


class Killed(BaseException):
    """The process ended here: nobody cleans up."""


@dataclass
class Line:
    """The way of calls, with a place to kill the worker at, to hold it, or to answer for the provider."""

    path: CallPath
    kill_at: int = 0
    hold: asyncio.Event | None = None
    answers: list[Result] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    async def call(self, plan: Plan) -> Result:
        account = await self.path._tokens.account(plan.connection)
        self.requests.append(plan.build(account))
        if self.answers:
            return self.answers.pop(0)
        if len(self.requests) == self.kill_at:
            raise Killed
        result = await self.path.call(plan)
        if self.hold is not None:
            await self.hold.wait()
        return result


@dataclass
class Records:
    """One polled batch."""

    topic: str
    value: bytes
    key: bytes
    headers: list[tuple[str, bytes]]
    offset: int
    partition: int = 0


class Kafka:
    """A consumer that has what it was given."""

    async def commit(self, offsets: Any) -> None: ...
    def seek(self, partition: Any, offset: int) -> None: ...
    def pause(self, partitions: Any) -> None: ...
    def resume(self, partitions: Any) -> None: ...
    def assignment(self) -> set[Any]:
        return set()


@dataclass
class World:
    """A worker, a sandbox that plays its providers, and in between what stands for the gateway."""

    database: Database
    clock: ManualClock
    sandbox: Sandbox
    parts: Parts
    line: Line
    loop: BatchLoop
    claims: ClaimStore
    connections: dict[str, UUID] = field(default_factory=dict)
    offset: int = 0

    def engine(self, name: str = "w1", line: Line | None = None) -> CatchUp:
        return CatchUp(self.database, line or self.line, self.claims, self.clock, owner=name, timing=Timing())

    async def connect(self, slug: str) -> UUID:
        connection = Connection(
            id=uuid7(),
            tenant="t1",
            provider=slug,
            account_ref=f"acct_{slug}",
            method=next(iter(registry.get(slug).api.auth)),
            state="live",
            options=dict(registry.get(slug).default_options),
            created_at=self.clock.now(),
            created_by="test",
        )
        async with self.database.unit_of_work() as uow:
            assert await self.parts.desk.create(uow, connection, SECRETS[slug], Lane.STANDARD, "test")
        self.connections[slug] = connection.id
        return connection.id

    async def send(self, slug: str, number: int, lost: set[int]) -> None:
        """Let the vendor send webhooks; those that are not lost arrive, over the gateway, at the worker's inbox."""
        for one in range(number):
            order = NewDelivery.model_validate(
                {
                    "provider": slug,
                    "url": "http://127.0.0.1:9/hooks/ep",
                    "secret": SECRETS[slug]["webhook"],
                    "fixture": FIXTURES[slug],
                    "fresh": f"n{one}",
                    # Nothing is sent over the wire: what arrives is handed on below, as the gateway would.
                    "lost": True,
                }
            )
            await self.sandbox.desk.send(order)
            if one not in lost:
                await self.arrive(slug, self.sandbox.world.events[-1].body)
            self.clock.advance(1)

    async def arrive(self, slug: str, body: bytes) -> None:
        """Do as the gateway does with a delivery: its id is the event's, its source names the connection."""
        provider, connection, now = registry.get(slug), str(self.connections[slug]), self.clock.now()
        (item,) = provider.split(InboundRequest("POST", "", {"content-type": ["application/json"]}, body))
        entity = ":".join(item.entity) if item.entity else ""
        attributes = DeliveryAttributes(
            delivery=str(uuid7()),
            provider=slug,
            endpoint="ep",
            connection=connection,
            tenant="t1",
            lane="critical",
            event=item.event_id,
            eventtype=item.event_type,
            receivedat=now,
            verifiedat=now,
            keyid="k1",
            bodysha256="",
            entity=entity,
        )
        source = f"patchbay/webhook-gateway/{slug}/{connection}"
        envelope = Envelope(item.event_id, source, DELIVERY_ACCEPTED, body, now, extensions=attributes.extensions())
        await self.consume([(GATEWAY_EVENTS[Lane.CRITICAL].name, b"key", envelope.data, envelope.headers())])

    async def consume(self, found: list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]]) -> None:
        """Let the worker's consumer take records."""
        records = [
            Records(topic, value, key, headers, self.offset + n) for n, (topic, key, value, headers) in enumerate(found)
        ]
        self.offset += len(records)
        await self.loop.handle(records, Kafka())

    async def delivered(self) -> list[tuple[str, bytes, bytes, list[tuple[str, bytes]]]]:
        """Return what catch-up wrote to the lanes."""
        names = [topic.name for topic in GATEWAY_EVENTS.values()]
        found = await rows(self.database.dsn, "SELECT * FROM outbox WHERE topic = ANY($1) ORDER BY xid, id", names)
        return [(one["topic"], one["key"], one["value"], unpack_headers(one["headers"])) for one in found]

    async def payments(self) -> dict[str, int]:
        found = await rows(self.database.dsn, "SELECT external_id, version FROM payments")
        return {one["external_id"]: one["version"] for one in found}

    async def cursor(self) -> dict[str, Any]:
        (found,) = await rows(self.database.dsn, "SELECT * FROM cursors")
        return dict(found)

    async def lapse(self) -> None:
        """Let the lease of a killed worker be over, as time would."""
        async with self.database.connection() as connection:
            await connection.execute("UPDATE cursors SET lease_until = clock_timestamp() - interval '1 s'")

    async def due(self) -> None:
        async with self.database.connection() as connection:
            await connection.execute("UPDATE cursors SET due_at = $1", self.clock.now())


def small_pages(provider: Provider, **changes: Any) -> Provider:
    """Return a provider whose feeds have few items on a page."""
    feeds = tuple(feed.model_copy(update={"page_size": PAGE} | changes) for feed in provider.manifest.feeds)
    return Provider(provider.folder, provider.manifest.model_copy(update={"feeds": feeds}))


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let Stripe and Square tell their events in small pages."""
    real = registry.discover(registry.ROOT)

    def change(**changes: Any) -> None:
        more = {slug: small_pages(real[slug], **changes) for slug in ("stripe", "square")}
        monkeypatch.setattr(registry, "discover", lambda _root: {**real, **more})

    change()
    return change


@pytest_asyncio.fixture
async def world(  # noqa: PLR0917 (fixtures)
    database: Database,
    keyring: Keyring,
    acts: Endpoints,
    clock: ManualClock,
    kit: Any,
    tmp_path: Path,
    paged: Any,  # noqa: ARG001 (its effect)
) -> AsyncIterator[World]:
    box, port = Sandbox(Settings(), clock), free_port()
    server = HttpServer(box.app, "127.0.0.1", port)
    await server.start()
    base = f"http://127.0.0.1:{port}"
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test", base))
    client = ProviderClient(clock, base_url_override=base)
    line = Line(kit.path_of(parts.tokens, client, RouteTable(), clock))
    claims = ClaimStore(tmp_path)
    no_desk: Any = None
    handlers = Handlers(keyring, no_desk, clock, claims)
    loop = BatchLoop("sync-worker-deliveries", list(GATEWAY_EVENTS.values()), handlers.deliveries, database)
    yield World(database, clock, box, parts, line, loop, claims)
    await client.close()
    await parts.close()
    await server.stop()
    await box.close()


LOST = {1, 6, 7, 12, 19}


async def missed_of(world: World, slug: str = "stripe", number: int = 20) -> set[str]:
    """Connect, let webhooks get lost, wait until the feed shows them, and return the ids of those that did not come."""
    await world.connect(slug)
    world.clock.advance(60)
    await world.send(slug, number, LOST)
    world.clock.advance(300)
    pointer = "id" if slug == "stripe" else "event_id"
    return {json.loads(world.sandbox.world.events[one].body)[pointer] for one in LOST}


async def test_exactly_what_was_lost_is_delivered_and_what_came_is_not(world: World) -> None:
    missed = await missed_of(world)
    assert len(await world.payments()) == 15
    assert await world.engine().step() == 1
    found = await world.delivered()
    envelopes = [from_record(value, headers) for _, _, value, headers in found]
    facts = [DeliveryAttributes.of(one) for one in envelopes]
    assert {one.id for one in envelopes} == missed
    assert len(envelopes) == 5
    assert {(one.origin, one.lane, one.tenant, one.keyid) for one in facts} == {("reconcile", "critical", "t1", "")}
    assert {topic for topic, *_ in found} == {GATEWAY_EVENTS[Lane.CRITICAL].name}
    assert all(key.decode() == f"t1:{one.entity}" for (_, key, _, _), one in zip(found, facts, strict=True))
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"], cursor["calls"], cursor["error"]) == (20, 5, 5, "")
    before = await world.payments()
    await world.consume(found)
    after = await world.payments()
    assert len(after) == 20
    assert {name: after[name] for name in before} == before


async def test_a_webhook_that_comes_late_is_absorbed_and_a_second_run_finds_nothing(world: World) -> None:
    await missed_of(world)
    await world.engine().step()
    await world.consume(await world.delivered())
    before = await world.payments()
    for one in world.sandbox.world.events:
        await world.arrive("stripe", one.body)
    assert await world.payments() == before
    world.clock.advance(901)
    assert await world.engine().step() == 1
    assert len(await world.delivered()) == 5
    assert await world.engine().step() == 0, "it is not due before its interval is over"


async def test_a_killed_worker_costs_a_page_not_a_run(world: World) -> None:
    missed = await missed_of(world)
    world.line.kill_at = 3
    with pytest.raises(Killed):
        await world.engine("w1").step()
    assert len(world.line.requests) == 3
    kept = {from_record(value, headers).id for _, _, value, headers in await world.delivered()}
    assert kept < missed
    assert await world.engine("w2").step() == 0, "the lease of the killed one still holds"
    await world.lapse()
    second = Line(world.line.path)
    assert await world.engine("w2", second).step() == 1
    assert [request.query.get("starting_after", "") != "" for request in second.requests] == [True, True, True]
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert len(await world.delivered()) == 5
    cursor = await world.cursor()
    assert (cursor["found"], cursor["missed"], cursor["calls"]) == (20, 5, 6)


async def test_an_expired_page_falls_back_to_its_window(world: World) -> None:
    missed = await missed_of(world, "square")
    world.line.kill_at = 4
    with pytest.raises(Killed):
        await world.engine().step()
    assert (await world.cursor())["page_cursor"]
    await world.lapse()
    world.clock.advance(600)
    second = Line(world.line.path)
    assert await world.engine("w2", second).step() == 1
    assert "cursor" not in second.requests[0].json, "the vendor has forgotten that page"
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert len(await world.delivered()) == 5
    assert (await world.cursor())["error"] == ""
    assert world.line.requests[0].path == "/v2/events/enable"
    assert not any(request.path.endswith("enable") for request in second.requests), "once is enough"


async def test_a_page_that_the_provider_refuses_is_read_anew(world: World) -> None:
    missed = await missed_of(world)
    world.line.kill_at = 3
    with pytest.raises(Killed):
        await world.engine().step()
    await world.lapse()
    async with world.database.connection() as connection:
        await connection.execute("UPDATE cursors SET page_cursor = 'evt_that_is_gone'")
    assert await world.engine("w2").step() == 1
    assert {from_record(value, headers).id for _, _, value, headers in await world.delivered()} == missed
    assert (await world.cursor())["error"] == ""


async def test_a_spent_budget_ends_the_day_and_the_next_one_goes_on(world: World, paged: Any) -> None:
    paged(page_size=1, calls_per_day=24)
    await missed_of(world, number=30)
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


async def test_two_workers_make_one_run(world: World) -> None:
    await missed_of(world)
    first, second = world.engine("w1"), world.engine("w2")
    done = await asyncio.gather(first.step(), second.step())
    assert sum(done) == 1
    assert len(world.line.requests) == 5
    assert len(await world.delivered()) == 5


async def test_a_worker_that_slept_through_its_lease_keeps_nothing(world: World) -> None:
    await missed_of(world)
    held = Line(world.line.path, hold=asyncio.Event())
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


@pytest.mark.parametrize(
    ("meaning", "status", "again_h"), [("missing_scope", 403, 1), ("refused", 404, 1), ("unclear", 503, 0)]
)
async def test_a_refusal_is_an_error_and_never_no_data(world: World, meaning: str, status: int, again_h: int) -> None:
    await missed_of(world)
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


async def test_an_answer_without_its_list_is_an_error(world: World) -> None:
    await missed_of(world)
    account = await world.parts.tokens.account(world.connections["stripe"])
    empty = HttpResponse(200, {}, {"object": "list"})
    world.line.answers.append(Result("success", "", "", empty, account=account))
    await world.engine().step()
    cursor = await world.cursor()
    assert cursor["error"].startswith("unreadable_answer")
    assert list(cursor["done"]) == []


async def test_a_silent_source_is_read_at_once(world: World) -> None:
    connection = await world.connect("stripe")
    world.clock.advance(600)
    assert await world.engine().step() == 1
    await world.send("stripe", 3, {0, 1, 2})
    world.clock.advance(130)
    assert await world.engine().step() == 0
    woken: list[bool] = []
    (endpoint,) = await rows(world.database.dsn, "SELECT id FROM endpoints WHERE connection = $1", connection)
    now = world.clock.now()
    silent = SourceFellSilent(endpoint=endpoint["id"], tenant="t1", provider="stripe", last_at=now, at=now)
    message = Message(
        Envelope("1", "gateway", SourceFellSilent.TYPE, encode(silent)), b"ep", Origin("gateway.silences.v1", 0, 0), []
    )
    async with world.database.unit_of_work() as uow:
        await Silences(world.clock, lambda: woken.append(True)).handle(uow, [message])
    assert woken == [True]
    assert await world.engine().step() == 1
    assert len(await world.delivered()) == 3


async def test_a_paused_endpoint_is_not_delivered_to(world: World) -> None:
    await missed_of(world)
    async with world.database.connection() as connection:
        await connection.execute("UPDATE endpoints SET state = 'paused'")
    await world.engine().step()
    assert (await world.cursor())["error"].startswith("no_endpoint")
    assert await world.delivered() == []


async def test_api_shows_the_cursor_and_starts_a_run(world: World, issuer: LocalIssuer) -> None:
    await missed_of(world)
    woken: list[bool] = []
    served = catch_up_routes(CatchUpApi(world.database, world.clock, lambda: woken.append(True)), issuer.verifier())
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="ann")) as api:
        path = f"/v1/connections/{world.connections['stripe']}/catch-up"
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
