"""A worker, a sandbox that plays its providers on loopback, and in between what stands for the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chassis.claims import ClaimStore
from chassis.claims.directory import DirectoryClaims
from chassis.db.database import Database
from chassis.http.server import HttpServer
from chassis.kafka.loop import BatchLoop
from chassis.kafka.records import ConsumerRecord
from chassis.kafka.rows import unpack_headers
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.ports import free_port
from contracts.envelope import Envelope
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, Lane
from providers import registry
from providers.provider import Provider
from providers.sdk import InboundRequest
from sandbox.app import Sandbox
from sandbox.fresh import snapshots_of
from sandbox.orders import NewDelivery
from sandbox.settings import Settings
from sync_worker.catchup.engine import CatchUp, Timing
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.handlers import Handlers
from sync_worker.models import Connection
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Plan, Result
from sync_worker.outbound.route_table import RouteTable

PAGE = 4
WITH_LOGS = [one for one in registry.all_providers() if one.manifest.feeds and one.manifest.feeds[0].kind == "events"]
# Pages by the id of the last event, and by a cursor that the vendor soon forgets.
BY_ID = next(one for one in WITH_LOGS if one.manifest.feeds[0].paging.kind == "last_id")
BY_CURSOR = next(one for one in WITH_LOGS if one.manifest.feeds[0].paging.expires_s is not None)
PLAYED = {one.slug: one for one in (BY_ID, BY_CURSOR)}


def secrets_of(provider: Provider) -> dict[str, str]:
    """Return made-up secrets with which a connection can receive and call."""
    needed = provider.api.method().secret_names()
    specs = provider.manifest.secrets.items()
    return {name: f"{spec.prefix}fake_{name}" for name, spec in specs if spec.required or name in needed}


def payment_fixture(provider: Provider) -> str:
    """Return the name of a fixture that speaks of a payment."""
    return next(one.name for one in provider.fixtures() if any(s.amount for s in snapshots_of(provider, one)))


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
class Record:
    """One polled record."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
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
    receiver: str
    received: list[bytes]
    connections: dict[str, UUID] = field(default_factory=dict)
    offset: int = 0

    killed: type[BaseException] = Killed
    by_id: str = BY_ID.slug
    by_cursor: str = BY_CURSOR.slug

    def another_line(self, hold: asyncio.Event | None = None) -> Line:
        return Line(self.line.path, hold=hold)

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
            assert await self.parts.desk.create(uow, connection, secrets_of(PLAYED[slug]), Lane.STANDARD, "test")
        self.connections[slug] = connection.id
        return connection.id

    async def send(self, slug: str, number: int, lost: set[int]) -> None:
        """Let the vendor send webhooks; those that are not lost arrive, over the gateway, at the worker's inbox."""
        for one in range(number):
            order = NewDelivery.model_validate(
                {
                    "provider": slug,
                    "url": self.receiver,
                    "secret": secrets_of(PLAYED[slug])[PLAYED[slug].webhook.secret],
                    "fixture": payment_fixture(PLAYED[slug]),
                    "fresh": f"n{one}",
                    "lost": one in lost,
                }
            )
            await self.sandbox.desk.send(order)
            while self.received:
                await self.arrive(slug, self.received.pop())
            self.clock.advance(1)

    async def missed(self, slug: str = BY_ID.slug, number: int = 20) -> set[str]:
        """Connect, let five webhooks get lost, wait until the feed shows them, and return the ids of the lost ones."""
        lost = {1, 6, 7, 12, 19}
        await self.connect(slug)
        self.clock.advance(60)
        await self.send(slug, number, lost)
        self.clock.advance(300)
        bodies = [self.sandbox.world.events[one].body for one in lost]
        return {item.event_id for body in bodies for item in PLAYED[slug].split(InboundRequest("POST", "", {}, body))}

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
        records: list[ConsumerRecord] = [
            Record(topic, value, key, headers, self.offset + n) for n, (topic, key, value, headers) in enumerate(found)
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
    """Let both providers tell their events in small pages."""
    real = registry.discover(registry.ROOT)

    def change(**changes: Any) -> None:
        more = {slug: small_pages(real[slug], **changes) for slug in PLAYED}
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
    base, received = f"http://127.0.0.1:{port}", list[bytes]()

    async def hook(request: Request) -> Response:
        received.append(await request.body())
        return Response()

    at = free_port()
    receiver = HttpServer(Starlette(routes=[Route("/hooks/ep", hook, methods=["POST"])]), "127.0.0.1", at)
    await receiver.start()
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test", base))
    client = ProviderClient(clock, base_url_override=base)
    line = Line(kit.path_of(parts.tokens, client, RouteTable(), clock))
    claims = DirectoryClaims(tmp_path)
    no_desk: Any = None
    handlers = Handlers(keyring, no_desk, clock, claims)
    loop = BatchLoop("sync-worker-deliveries", list(GATEWAY_EVENTS.values()), handlers.deliveries, database)
    yield World(
        *(database, clock, box, parts, line, loop, claims),
        receiver=f"http://127.0.0.1:{at}/hooks/ep",
        received=received,
    )
    await receiver.stop()
    await client.close()
    await parts.close()
    await server.stop()
    await box.close()
