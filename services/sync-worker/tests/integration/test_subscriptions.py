"""Webhooks registered by API: made once, renewed before they end, compared with the provider's list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.http.server import HttpServer
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.ports import free_port
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import decode
from contracts.events.platform import AuditRecorded
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT, Lane
from providers import registry
from providers.manifest import Manifest
from providers.provider import Provider
from providers.sdk import HttpRequest, HttpResponse
from sandbox.app import Sandbox
from sandbox.behaviours.feeds import Registered
from sandbox.settings import Settings
from sync_worker.catchup.routes import CatchUpApi, catch_up_routes
from sync_worker.catchup.subscriptions import Subscriptions
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.models import Connection
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Plan, Result
from sync_worker.outbound.route_table import RouteTable

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

CANARY = "canary-channel-token"
DAY = 86_400.0


def watched(slug: str, *, renews: bool, lists: bool) -> Provider:
    """Return a provider whose watches live for a day; they are renewed, or made anew, and listed, or not."""
    signature = {"scheme": "static_token", "places": ["header:X-Token"]}
    expiring = {"expires_at": "{expires}"}
    watch: dict[str, Any] = {
        "name": "events",
        "source": "https://docs.test/",
        "parameters": {"calendar": "[a-z]+"},
        "lifetime_s": DAY,
        "answer": {"id": "/id", "url": "/address", "expires": "/expires_at"},
        "create": {
            "method": "POST",
            "path": "/watches/{parameter.calendar}",
            "json": {"address": "{url}", "token": "{secret}"} | expiring | ({} if lists else {"id": "{id}"}),
        },
        "delete": {"method": "DELETE", "path": "/watches/{ext_id}"},
    }
    if renews:
        watch["renew"] = {"method": "PATCH", "path": "/watches/{ext_id}", "json": expiring}
    if lists:
        watch["list"] = {"request": {"method": "GET", "path": "/watches"}, "items": "/items"}
    document = {
        "schema": 1,
        "slug": slug,
        "name": slug,
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "secrets": {
            "webhook": {"description": "token of the channel", "use": ["webhook"], "required": True},
            "key": {"description": "key of the API", "use": ["api"], "required": False},
        },
        "webhook": {"signature": signature, "event_id": ["body:/id"], "event_type": ["body:/type"]},
        "api": {"base_url": f"https://api.{slug}.test", "auth": {"key": {"kind": "bearer", "secret": "key"}}},
        "subscriptions": [watch],
    }
    return Provider(registry.ROOT / "nowhere", Manifest.model_validate(document))


@dataclass
class Line:
    """The way of calls, which remembers what was asked and may answer for the provider, or lose an answer."""

    path: CallPath
    requests: list[HttpRequest] = field(default_factory=list)
    answers: list[Result] = field(default_factory=list)
    lose: int = 0

    async def call(self, plan: Plan) -> Result:
        account = await self.path._tokens.account(plan.connection)
        request = plan.build(account)
        self.requests.append(request)
        if self.answers:
            return self.answers.pop(0)
        result = await self.path.call(plan)
        if self.lose and request.method == "POST":
            self.lose -= 1
            return Result("unclear", "timeout", "the provider did not answer in time")
        return result

    def asked(self) -> list[str]:
        """Return the methods that were used since the last look."""
        found: list[str] = [request.method for request in self.requests]
        self.requests.clear()
        return found


@dataclass
class World:
    database: Database
    clock: ManualClock
    sandbox: Sandbox
    parts: Parts
    line: Line
    keyring: Keyring
    api: Any = None

    def keeper(self, name: str = "w1") -> Subscriptions:
        return Subscriptions(self.database, self.line, self.keyring, self.clock, owner=name, check_every_s=6 * 3600)

    async def connect(self, slug: str = "watcher") -> UUID:
        connection = Connection(
            id=uuid7(),
            tenant="t1",
            provider=slug,
            account_ref="acct",
            method="key",
            state="live",
            options={},
            created_at=self.clock.now(),
            created_by="test",
        )
        async with self.database.unit_of_work() as uow:
            given = {"webhook": CANARY, "key": "test-api-key"}
            assert await self.parts.desk.create(uow, connection, given, Lane.STANDARD, "test")
        return connection.id

    async def subscribe(self, slug: str = "watcher") -> str:
        path = f"/v1/connections/{await self.connect(slug)}/subscriptions"
        answer = await self.api.post(path, json={"stream": "events", "parameters": {"calendar": "main"}})
        assert answer.status_code == 202, answer.text
        return path

    async def shown(self, path: str) -> dict[str, Any]:
        (one,) = (await self.api.get(path)).json()["items"]
        return dict(one)

    def registered(self, slug: str = "watcher") -> dict[str, Registered]:
        return next(iter(self.sandbox.apis[slug].feeds.registered.values()), {})

    async def alarms(self) -> list[tuple[str, str]]:
        found = await rows(
            self.database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", PLATFORM_AUDIT.name
        )
        entries = [decode(AuditRecorded, one["value"]) for one in found]
        return [(one.detail["kind"], one.detail["ext_id"]) for one in entries if one.action == "subscription.drifted"]


@pytest_asyncio.fixture
async def world(  # noqa: PLR0917 (fixtures)
    database: Database,
    keyring: Keyring,
    acts: Endpoints,
    clock: ManualClock,
    kit: Any,
    issuer: LocalIssuer,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    more = {
        "watcher": watched("watcher", renews=True, lists=True),
        "channels": watched("channels", renews=False, lists=False),
    }
    found = {**registry.discover(registry.ROOT), **more}
    monkeypatch.setattr(registry, "discover", lambda _root: found)
    box, port = Sandbox(Settings(), clock), free_port()
    server = HttpServer(box.app, "127.0.0.1", port)
    await server.start()
    base = f"http://127.0.0.1:{port}"
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test", base))
    client = ProviderClient(clock, base_url_override=base)
    line = Line(kit.path_of(parts.tokens, client, RouteTable(), clock))
    made = World(database, clock, box, parts, line, keyring)
    served = catch_up_routes(CatchUpApi(database, clock, lambda: None), issuer.verifier())
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="ann")) as api:
        made.api = api
        yield made
    await client.close()
    await parts.close()
    await server.stop()
    await box.close()


async def test_registered_once_and_shown(world: World) -> None:
    path = await world.subscribe()
    assert (await world.shown(path))["state"] == "wanted"
    assert await world.keeper().step() == 1
    one = await world.shown(path)
    assert (one["state"], one["error"], one["drift"]) == ("active", "", "")
    (registered,) = world.registered().values()
    (endpoint,) = await rows(world.database.dsn, "SELECT url FROM endpoints")
    assert (registered.url, one["ext_id"]) == (endpoint["url"], registered.ext_id)
    create = next(request for request in world.line.requests if request.method == "POST")
    assert create.json["token"] == CANARY, "the provider is told what the endpoint verifies with"
    assert await world.keeper().step() == 0
    again = await world.api.post(path, json={"stream": "events", "parameters": {"calendar": "main"}})
    assert (again.status_code, again.json()["code"]) == (409, "subscription_exists")
    stored = str(await rows(world.database.dsn, "SELECT * FROM subscriptions"))
    assert CANARY not in stored


async def test_two_workers_register_once(world: World) -> None:
    await world.subscribe()
    done = await asyncio.gather(world.keeper("w1").step(), world.keeper("w2").step())
    assert sum(done) == 1
    assert len(world.registered()) == 1


async def test_renewed_at_half_of_its_life_by_a_virtual_clock(world: World) -> None:
    path = await world.subscribe()
    keeper = world.keeper()
    await keeper.step()
    (registered,) = world.registered().values()
    for _ in range(20):
        world.clock.advance(DAY / 4)
        await keeper.step()
        assert registered.expires_at is not None
        assert registered.expires_at - world.clock.now() >= timedelta(seconds=DAY / 2), "it never comes near its end"
    assert world.line.asked().count("PATCH") >= 9
    assert len(world.registered()) == 1
    assert (await world.shown(path))["state"] == "active"


async def test_without_a_renewal_another_one_is_made_before_the_end(world: World) -> None:
    path = await world.subscribe("channels")
    keeper = world.keeper()
    await keeper.step()
    first = (await world.shown(path))["ext_id"]
    world.clock.advance(DAY / 2 + 1)
    await keeper.step()
    second = await world.shown(path)
    assert second["ext_id"] not in ("", first)
    assert set(world.registered("channels")) == {first, second["ext_id"]}


async def test_an_unanswered_registration_is_looked_up_not_repeated(world: World) -> None:
    path = await world.subscribe()
    keeper = world.keeper()
    world.line.lose = 1
    await keeper.step()
    assert (await world.shown(path))["error"].startswith("unclear")
    world.clock.advance(61)
    await keeper.step()
    one = await world.shown(path)
    assert (one["state"], one["error"]) == ("active", "")
    assert list(world.registered()) == [one["ext_id"]]


async def test_drift_is_an_alarm_once_and_what_is_missing_is_registered_again(world: World) -> None:
    path = await world.subscribe()
    keeper = world.keeper()
    await keeper.step()
    one = await world.shown(path)
    books = world.registered()
    foreign = Registered("foreign", "https://elsewhere.test/hook", None)
    books["twin"] = Registered("twin", one["url"], None)
    books["foreign"] = foreign
    for _ in range(2):
        world.clock.advance(6 * 3600 - 60)
        await keeper.step()
        world.clock.advance(61)
        await keeper.step()
    assert await world.alarms() == [("unknown", "twin")]
    assert (await world.shown(path))["drift"] == "unknown twin"
    del books["twin"]
    books.pop(one["ext_id"])
    world.clock.advance(6 * 3600 + 1)
    await keeper.step()
    await keeper.step()
    renewed = await world.shown(path)
    assert (renewed["state"], renewed["ext_id"] in books) == ("active", True)
    assert ("missing", one["ext_id"]) in await world.alarms()


async def test_a_refused_registration_is_shown_and_tried_later(world: World) -> None:
    path = await world.subscribe()
    world.line.answers.append(Result("missing_scope", "", "", HttpResponse(403, {}, {})))
    keeper = world.keeper()
    await keeper.step()
    assert (await world.shown(path))["error"] == "missing_scope: the provider answered 403"
    assert await keeper.step() == 0
    world.clock.advance(3601)
    await keeper.step()
    assert (await world.shown(path))["state"] == "active"


async def test_an_end_takes_it_away_at_the_provider(world: World) -> None:
    path = await world.subscribe()
    keeper = world.keeper()
    await keeper.step()
    assert (await world.api.delete(f"{path}/events")).status_code == 202
    await keeper.step()
    assert world.registered() == {}
    assert (await world.api.get(path)).json() == {"items": []}
    assert (await world.api.delete(f"{path}/events")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stream": "other"}, "stream"),
        ({"stream": "events"}, "parameters.calendar"),
        ({"stream": "events", "parameters": {"calendar": "../x"}}, "parameters.calendar"),
        ({"stream": "events", "parameters": {"calendar": "main", "more": "x"}}, "parameters.more"),
        ({"stream": "events", "parameters": {"calendar": "main"}, "endpoint": "ep_other"}, "endpoint"),
    ],
)
async def test_what_cannot_be_registered_is_named(world: World, body: dict[str, Any], field: str) -> None:
    answer = await world.api.post(f"/v1/connections/{await world.connect()}/subscriptions", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_another_tenant_sees_and_writes_nothing(world: World) -> None:
    await world.subscribe()
    other = await asyncpg.connect(world.database.dsn)
    try:
        await other.execute("SELECT set_config('patchbay.tenants', 't2', false)")
        for table in ("subscriptions", "cursors"):
            assert await other.fetchval(f"SELECT count(*) FROM {table}") == 0
        assert await other.execute("DELETE FROM subscriptions") == "DELETE 0"
    finally:
        await other.close()
