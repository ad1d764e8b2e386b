"""A ledger without a broker: its database, its handlers and its API, with records made as the gateway makes them."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.kafka.rows import unpack_headers
from chassis.testing.clock import ManualClock
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database
from contracts.codec import decode, encode
from contracts.envelope import Envelope, from_record
from contracts.events.base import Event
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, DeliveryRejected, DeliveryRepeated
from contracts.events.platform import AuditRecorded
from contracts.events.sync import EndpointConfigured
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, GATEWAY_QUARANTINE, GATEWAY_REJECTIONS, PLATFORM_AUDIT, Lane
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.handlers import Handlers
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.ledger.table import routes
from webhook_gateway.replay import Releaser, ReplayRunner
from webhook_gateway.watch import Pulse, ShapeSampler, Watch

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Maker:
    """Makes records as the gateway writes them; each has the next offset of its topic's partition 3."""

    start = START
    trace = TRACE

    def __init__(self) -> None:
        self.offset = 6

    def accepted(
        self,
        event: str,
        *,
        at: datetime = START,
        delivery: UUID | None = None,
        body: bytes = b'{"id": 1}',
        **facts: Any,
    ) -> Message:
        known: dict[str, Any] = {
            "provider": "acme",
            "endpoint": "ep-1",
            "connection": "0195c000-0000-7000-8000-000000000001",
            "tenant": "t1",
            "lane": "standard",
            "eventtype": "thing.made",
            "keyid": "k1",
            "bodysha256": f"{hash(body):x}",
            "entity": "payment:p1",
            "signed": (("x-signature", "v1=ab"),),
            "verifiedat": at + timedelta(milliseconds=3),
        } | facts
        attributes = DeliveryAttributes(delivery=str(delivery or uuid7()), event=event, receivedat=at, **known)
        envelope = Envelope(
            id=event,
            source=f"patchbay/webhook-gateway/{attributes.provider}/{attributes.connection}",
            type=DELIVERY_ACCEPTED,
            data=body,
            time=at,
            traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
            extensions=attributes.extensions(),
        )
        topic = GATEWAY_QUARANTINE if attributes.quarantine else GATEWAY_EVENTS[Lane(attributes.lane)]
        return Message(envelope, f"t1:{attributes.entity}".encode(), self._origin(topic.name), [])

    def rejected(
        self,
        reason: str = "bad_signature",
        *,
        at: datetime = START,
        body: bytes = b"\xff",
        headers: tuple[tuple[str, str], ...] = (("content-type", "text/plain"),),
        **facts: Any,
    ) -> Message:
        event = DeliveryRejected.model_validate(
            {
                "delivery": str(uuid7()),
                "endpoint": "ep-1",
                "provider": "acme",
                "tenant": "t1",
                "connection": str(uuid4()),
                "reason": reason,
                "status": 401,
                "method": "POST",
                "received_at": at,
                "headers": headers,
                "body": base64.b64encode(body).decode(),
                "body_bytes": len(body),
            }
            | facts
        )
        return self.message(event, event.delivery, GATEWAY_REJECTIONS.name)

    def repeated(self, event: str, first: UUID, *, at: datetime = START) -> Message:
        note = DeliveryRepeated(
            delivery=str(uuid7()),
            first_delivery=str(first),
            endpoint="ep-1",
            provider="acme",
            tenant="t1",
            connection=str(uuid4()),
            event=event,
            event_type="thing.made",
            key_id="k1",
            received_at=at,
            body_sha256="00",
        )
        return self.message(note, note.delivery, GATEWAY_REJECTIONS.name)

    def message(
        self, event: Event, identifier: str, topic: str, *, source: str = "patchbay/webhook-gateway"
    ) -> Message:
        envelope = Envelope(
            id=identifier,
            source=source,
            type=event.TYPE,
            data=encode(event),
            time=START,
            traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
        )
        return Message(envelope, b"key", self._origin(topic), [])

    def endpoint(self, endpoint: str = "ep-1", **facts: Any) -> EndpointConfigured:
        known: dict[str, Any] = {
            "endpoint": endpoint,
            "connection": str(uuid4()),
            "provider": "acme",
            "tenant": "t1",
            "url": f"https://hooks.test/hooks/{endpoint}",
            "secrets": (),
            "version": 1,
        }
        return EndpointConfigured.model_validate(known | facts)

    def _origin(self, topic: str) -> Origin:
        self.offset += 1
        return Origin(topic, 3, self.offset)


@dataclass
class Ledger:
    """The ledger as a caller with one role sees it, and what stands behind it."""

    client: httpx.AsyncClient
    database: Database
    clock: ManualClock
    book: EndpointBook
    issuer: LocalIssuer
    api: LedgerApi
    sampler: ShapeSampler
    pulse: Pulse
    handlers: Handlers = field(init=False)
    runner: ReplayRunner = field(init=False)
    releaser: Releaser = field(init=False)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.handlers = Handlers(self.book, self.clock, (self.pulse.hear, self.sampler.hear))
        self.runner = ReplayRunner(self.database, self.clock, self.book)
        self.releaser = Releaser(self.database, self.clock, self.book, rate_per_s=1000)
        self.watch = Watch(self.database, self.clock, self.book, pulse=self.pulse, sampler=self.sampler)

    async def store(self, *messages: Message) -> None:
        async with self.database.unit_of_work() as uow:
            await self.handlers.store(uow, messages)

    async def trace(self, *messages: Message) -> None:
        async with self.database.unit_of_work() as uow:
            await self.handlers.trace(uow, messages)

    def configure(self, configured: EndpointConfigured) -> None:
        envelope = Envelope(id="1", source="test", type=configured.TYPE, data=encode(configured))
        self.book.apply(configured.endpoint, envelope)

    async def search(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get("/v1/deliveries", params=query)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def get(self, path: str, /, **query: Any) -> Any:
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return await self.client.post(path, json=body or {})

    async def refusal(self, answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json()["code"]

    async def outbox(self, topic: str | None = None) -> list[tuple[str, str, Envelope]]:
        """Return what was written and not relayed: (topic, key, envelope) in order; the audit log only when asked."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT topic, key, value, headers FROM outbox ORDER BY xid, id")
        return [
            (row["topic"], row["key"].decode(), from_record(row["value"], unpack_headers(row["headers"])))
            for row in rows
            if (row["topic"] == topic if topic else row["topic"] != PLATFORM_AUDIT.name)
        ]

    async def audited(self) -> list[AuditRecorded]:
        return [decode(AuditRecorded, envelope.data) for _, _, envelope in await self.outbox(PLATFORM_AUDIT.name)]

    async def run_jobs(self) -> None:
        """Run all open jobs to their end, a second of the clock per step."""
        for _ in range(200):
            await self.runner.step()
            jobs = (await self.get("/v1/replays"))["items"]
            if not [job for job in jobs if job["state"] in ("queued", "running")]:
                return
            self.clock.advance(1)
        raise AssertionError("the jobs do not end")


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "webhook_gateway") as opened:
        yield opened


@pytest_asyncio.fixture
async def ledger(database: Database, issuer: LocalIssuer) -> AsyncIterator[Ledger]:
    clock, book = ManualClock(START), EndpointBook()
    api = LedgerApi(database, clock, book, issuer.verifier())
    async with api_client(routes(api), issuer.headers(Role.OPERATOR)) as client:
        yield Ledger(client, database, clock, book, issuer, api, ShapeSampler(), Pulse(clock))


@pytest.fixture
def plain() -> Any:
    """Return a value as the API would show it."""
    return lambda value: orjson.loads(orjson.dumps(value, default=str))
