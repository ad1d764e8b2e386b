"""The ledger role: gateway records in, searchable rows out. Real database, no broker."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, migrated_dsn, schema_differences, service_database
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, DeliveryRejected
from contracts.ids import uuid7
from webhook_gateway import handlers
from webhook_gateway.ledger import routes

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "webhook_gateway") as opened:
        yield opened


def accepted(event: str, *, at: datetime = START, delivery: UUID | None = None, **facts: Any) -> Message:
    known = {
        "provider": "acme",
        "endpoint": "ep-1",
        "connection": str(uuid4()),
        "tenant": "t1",
        "lane": "standard",
        "eventtype": "thing.made",
        "keyid": "k1",
        "bodysha256": "00",
        "entity": "payment:p1",
        "signed": (("x-signature", "v1=ab"),),
    } | facts
    attributes = DeliveryAttributes(
        delivery=str(delivery or uuid7()), event=event, receivedat=at, verifiedat=at, **known
    )
    envelope = Envelope(
        id=event,
        source="patchbay/webhook-gateway/acme/c1",
        type=DELIVERY_ACCEPTED,
        data=b'{"id": 1}',
        traceparent=f"00-{TRACE}-b7ad6b7169203331-01",
        extensions=attributes.extensions(),
    )
    return Message(envelope, b"key", Origin("gateway.events-standard.v1", 3, 7), [])


def rejected(reason: str = "bad_signature", *, at: datetime = START) -> Message:
    event = DeliveryRejected(
        delivery=str(uuid7()),
        endpoint="ep-1",
        provider="acme",
        tenant="t1",
        connection=str(uuid4()),
        reason=reason,
        status=401,
        method="POST",
        received_at=at,
        headers=(("content-type", "text/plain"),),
        body="/w==",
        body_bytes=1,
    )
    envelope = Envelope(id=event.delivery, source="test", type=event.TYPE, data=encode(event))
    return Message(envelope, b"key", Origin("gateway.rejections.v1", 0, 1), [])


async def store(database: Database, *messages: Message) -> None:
    async with database.unit_of_work() as uow:
        await handlers.store(uow, messages)


class Ledger:
    """The API as a caller with one role sees it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def search(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get("/v1/deliveries", params=query)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


@pytest_asyncio.fixture
async def ledger(database: Database, issuer: LocalIssuer) -> AsyncIterator[Ledger]:
    async with api_client(routes(database, issuer.verifier()), issuer.headers(Role.OPERATOR)) as client:
        yield Ledger(client)


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "webhook_gateway")
    assert await schema_differences(dsn, "webhook_gateway") == []


async def test_the_first_delivery_of_an_event_is_accepted_and_the_others_are_duplicates(
    database: Database, ledger: Ledger
) -> None:
    await store(database, accepted("e1", at=START), accepted("e1", at=START + timedelta(seconds=1)))
    await store(database, accepted("e1", at=START + timedelta(seconds=2)), accepted("e2", at=START))
    await store(database, accepted("e1", at=START, endpoint="ep-2"))
    found = await ledger.search(endpoint="ep-1")
    assert [(one["event_id"], one["outcome"]) for one in found if one["event_id"] == "e1"] == [
        ("e1", "duplicate"),
        ("e1", "duplicate"),
        ("e1", "accepted"),
    ]
    assert [one["outcome"] for one in await ledger.search(endpoint="ep-2")] == ["accepted"]


async def test_the_same_record_again_is_one_row(database: Database, ledger: Ledger) -> None:
    delivery = uuid7()
    await store(database, accepted("e1", delivery=delivery))
    await store(database, accepted("e1", delivery=delivery))
    assert [one["outcome"] for one in await ledger.search()] == ["accepted"]


async def test_filters_narrow_and_combine(database: Database, ledger: Ledger) -> None:
    await store(
        database,
        accepted("e1", at=START),
        accepted("e2", at=START + timedelta(hours=1), provider="other", entity="payment:p2", eventtype="thing.gone"),
        rejected(at=START + timedelta(hours=2)),
    )
    assert [one["event_id"] for one in await ledger.search(provider="other")] == ["e2"]
    assert [one["event_id"] for one in await ledger.search(entity="payment:p1")] == ["e1"]
    assert [one["event_id"] for one in await ledger.search(type="thing.gone", outcome="accepted")] == ["e2"]
    assert [one["reason"] for one in await ledger.search(outcome="rejected")] == ["bad_signature"]
    hour = {"received_from": START.isoformat(), "received_to": (START + timedelta(hours=1)).isoformat()}
    assert [one["event_id"] for one in await ledger.search(**hour)] == ["e1"]
    assert await ledger.search(tenant="t2") == []


async def test_pages_show_every_delivery_once_even_when_some_arrive_meanwhile(
    database: Database, ledger: Ledger
) -> None:
    one_request = uuid7()
    batch = [accepted(f"b{i}", delivery=one_request, item=i, items=4) for i in range(4)]
    await store(database, *batch, *(accepted(f"e{i}", at=START + timedelta(seconds=i % 3)) for i in range(9)))
    seen: list[str] = []
    after: str | None = None
    while True:
        answer = await ledger.client.get("/v1/deliveries", params={"limit": 2} | ({"after": after} if after else {}))
        body = answer.json()
        seen += [one["event_id"] for one in body["items"]]
        await store(database, accepted(f"late{len(seen)}", at=START + timedelta(days=1)))
        after = body["next"]
        if after is None:
            break
    assert sorted(seen) == sorted([f"b{i}" for i in range(4)] + [f"e{i}" for i in range(9)])


async def test_one_delivery_is_shown_as_it_came(database: Database, ledger: Ledger) -> None:
    delivery, refusal = uuid7(), rejected()
    await store(database, accepted("e1", delivery=delivery), refusal)
    shown = (await ledger.client.get(f"/v1/deliveries/{delivery}")).json()
    (item,) = shown["items"]
    assert (item["body"], item["headers"], item["trace_id"]) == ({"id": 1}, [["x-signature", "v1=ab"]], TRACE)
    assert (item["topic"], item["partition"], item["offset"]) == ("gateway.events-standard.v1", 3, 7)
    refused = (await ledger.client.get(f"/v1/deliveries/{refusal.envelope.id}")).json()["items"][0]
    assert (refused["reason"], refused["status"], refused["body"]) == ("bad_signature", 401, "\ufffd")


async def test_bad_questions_are_answered_by_name(database: Database, issuer: LocalIssuer, ledger: Ledger) -> None:
    for query, field in (
        ({"outcome": "lost"}, "outcome"),
        ({"colour": "red"}, "colour"),
        ({"limit": "0"}, "limit"),
        ({"received_from": "yesterday"}, "received_from"),
        ({"received_from": "2026-01-01T00:00:00"}, "received_from"),
        ({"after": "nonsense"}, "after"),
    ):
        answer = await ledger.client.get("/v1/deliveries", params=query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    for unknown in (str(uuid7()), "no-uuid"):
        assert (await ledger.client.get(f"/v1/deliveries/{unknown}")).status_code == 404
    async with api_client(routes(database, issuer.verifier()), {}) as nobody:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer x.y.z"}, 401),
            ({"authorization": f"Bearer {issuer.token(Role.OPERATOR, aud='others')}"}, 401),
            ({"authorization": f"Bearer {issuer.token(Role.OPERATOR, exp=1)}"}, 401),
            (issuer.headers(Role.SERVICE), 403),
        ):
            assert (await nobody.get("/v1/deliveries", headers=headers)).status_code == status
        # The list is for viewers; bodies are personal data and need more.
        assert (await nobody.get("/v1/deliveries", headers=issuer.headers(Role.VIEWER))).status_code == 200
        shown = await nobody.get(f"/v1/deliveries/{uuid7()}", headers=issuer.headers(Role.VIEWER))
        assert shown.status_code == 403


async def test_many_writers_at_once_lose_nothing(database: Database, ledger: Ledger) -> None:
    await asyncio.gather(*(store(database, accepted(f"e{i}"), rejected()) for i in range(8)))
    assert len(await ledger.search(outcome="accepted")) == len(await ledger.search(outcome="rejected")) == 8


async def test_a_compressed_body_is_shown_plain(database: Database, issuer: LocalIssuer) -> None:
    message = accepted("zipped", encoding="gzip")
    plain = message.envelope
    message.envelope = replace(plain, data=gzip.compress(plain.data))
    await store(database, message)
    async with api_client(routes(database, issuer.verifier()), issuer.headers(Role.OPERATOR)) as client:
        delivery = (await client.get("/v1/deliveries")).json()["items"][0]["id"]
        [item] = (await client.get(f"/v1/deliveries/{delivery}")).json()["items"]
    assert (item["encoding"], item["body"]) == ("gzip", {"id": 1})
