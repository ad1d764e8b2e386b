"""Deliveries become canonical payments: once per fact, whatever the order, and a bad one harms nobody."""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chassis.claims.directory import DirectoryClaims
from chassis.db.database import Database
from chassis.kafka.records import Message, Origin
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows, until
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.events.sync import PaymentChanged
from contracts.ids import entity_id
from contracts.topics import SYNC_CHANGES
from sync_worker.handlers import Handlers

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

START = datetime(2026, 3, 1, tzinfo=UTC)
PHONE = "+15005550006"


def delivery(event: str, *, kind: str = "payment", entity: str = "payment:p1", **snapshot: Any) -> Message:
    attributes = DeliveryAttributes(
        delivery="d1",
        provider="payer",
        endpoint="ep",
        connection=str(UUID(int=1)),
        tenant="t1",
        lane="standard",
        event=event,
        eventtype=kind,
        receivedat=START,
        verifiedat=START,
        keyid="k1",
        bodysha256="",
        entity=entity,
    )
    body = json.dumps({"external_id": "p1"} | snapshot).encode()
    envelope = Envelope(event, "gateway", DELIVERY_ACCEPTED, body, extensions=attributes.extensions())
    return Message(envelope, b"key", Origin("gateway.events-standard.v1", 0, 0), [])


@pytest.fixture
def handlers(keyring: Any, fakes: Any) -> Handlers:
    assert fakes
    no_desk: Any = None  # deliveries never meet an effect
    return Handlers(keyring, no_desk, ManualClock(START), DirectoryClaims(Path("unused")))


async def take(database: Database, handlers: Handlers, *messages: Message) -> None:
    async with database.unit_of_work() as uow:
        await handlers.deliveries(uow, messages)


async def changes(database: Database) -> list[PaymentChanged]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", SYNC_CHANGES.name)
    return [decode(PaymentChanged, row["value"]) for row in found]


async def test_every_order_of_three_events_ends_in_the_same_payment(database: Database, handlers: Handlers) -> None:
    events = [
        delivery("e1", status="pending", fence=1, amount=1000),
        delivery("e2", status="succeeded", fence=2, amount=900, contact={"phone": PHONE}),
        delivery("e3", status="disputed", fence=3, amount=None, currency="EUR"),
    ]
    for order in itertools.permutations(events):
        async with database.connection() as connection:
            await connection.execute("TRUNCATE payments, outbox")
        for message in order:
            await take(database, handlers, message)
        (row,) = await rows(database.dsn, "SELECT status, amount, currency, version, id FROM payments")
        assert (row["status"], row["amount"], row["currency"]) == ("disputed", 900, "EUR")
        assert row["id"] == entity_id("t1", "payment", "payer", "p1")
        told = await changes(database)
        assert [one.version for one in told] == list(range(1, row["version"] + 1))
        assert told[-1].status == "disputed"


async def test_a_duplicate_changes_nothing_and_a_batch_counts_every_step(
    database: Database, handlers: Handlers
) -> None:
    first = delivery("e1", status="pending", fence=1)
    await take(database, handlers, first, first, delivery("e2", status="succeeded", fence=2))
    await take(database, handlers, first)
    told = await changes(database)
    assert [(one.status, one.previous_status, one.version, one.cause) for one in told] == [
        ("pending", None, 1, "e1"),
        ("succeeded", "pending", 2, "e2"),
    ]


async def test_a_contact_is_sealed_and_never_told(database: Database, handlers: Handlers) -> None:
    await take(database, handlers, delivery("e1", fence=1, contact={"phone": PHONE}))
    stored = await rows(database.dsn, "SELECT p::text FROM payments p UNION ALL SELECT o::text FROM outbox o")
    assert PHONE not in str(stored)
    assert PHONE.encode().hex() not in str(stored)


async def test_what_is_not_about_payments_is_left_alone(database: Database, handlers: Handlers) -> None:
    await take(database, handlers, delivery("e1", entity=""), delivery("e2", entity="repository:1"))
    await take(database, handlers, delivery("e3", kind="unreadable"))
    assert not await rows(database.dsn, "SELECT 1 FROM payments")


async def test_an_unreadable_payment_is_invalid_and_leaves_nothing(database: Database, handlers: Handlers) -> None:
    bad = delivery("e2")
    bad.envelope = Envelope("e2", "g", DELIVERY_ACCEPTED, b"{}", extensions=bad.envelope.extensions)
    with pytest.raises(Invalid):
        await take(database, handlers, delivery("e1"), bad)
    assert not await rows(database.dsn, "SELECT 1 FROM payments")


async def test_two_members_that_see_a_payment_first_at_once_lose_neither_event(
    database: Database, handlers: Handlers
) -> None:
    async with database.unit_of_work() as uow:
        await handlers.deliveries(uow, [delivery("e1", status="pending", fence=1)])
        other = asyncio.create_task(take(database, handlers, delivery("e2", status="succeeded", fence=2)))
        await _waits_for_a_lock(database)
    with pytest.raises(Transient):
        await other
    await take(database, handlers, delivery("e2", status="succeeded", fence=2))
    assert [(one.status, one.version) for one in await changes(database)] == [("pending", 1), ("succeeded", 2)]


async def _waits_for_a_lock(database: Database) -> None:
    """Return once another session of this database waits for a lock."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await until(lambda: rows(database.dsn, waiting), "the other member waits")
