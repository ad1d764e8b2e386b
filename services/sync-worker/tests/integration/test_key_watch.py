"""Which key is used is learnt from the deliveries, and an old one that ends soon is warned of once."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from chassis.claims.directory import DirectoryClaims
from chassis.db.database import Database
from chassis.kafka.records import Message, Origin
from chassis.sealing import Keyring
from chassis.telemetry.metrics import gauge
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.events.platform import AuditRecorded
from contracts.topics import PLATFORM_AUDIT
from sync_worker.endpoints.configuration import EndpointSettings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.key_watch import KeyWatch
from sync_worker.endpoints.republish import Republisher
from sync_worker.handlers import Handlers
from sync_worker.metrics import KEYS_EXPIRING_IN_USE
from sync_worker.models import Connection
from sync_worker.repository import connections, endpoints

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


def delivery(endpoint: str, key_id: str, at: datetime, origin: Any = "webhook") -> Message:
    attributes = DeliveryAttributes(
        delivery="d",
        provider="payer",
        endpoint=endpoint,
        connection=str(UUID(int=1)),
        tenant="t1",
        lane="standard",
        event="e",
        eventtype="other",
        receivedat=at,
        verifiedat=at,
        keyid=key_id,
        bodysha256="",
        origin=origin,
    )
    envelope = Envelope("e", "gateway", DELIVERY_ACCEPTED, b"{}", extensions=attributes.extensions())
    return Message(envelope, b"key", Origin("gateway.events-standard.v1", 0, 0), [])


@pytest.fixture
def handlers(keyring: Keyring, clock: ManualClock, fakes: Any) -> Handlers:
    assert fakes
    no_desk: Any = None  # deliveries never meet an effect
    return Handlers(keyring, no_desk, clock, DirectoryClaims(Path("unused")))


@pytest.fixture
def watch(database: Database, clock: ManualClock) -> KeyWatch:
    return KeyWatch(database, clock, warning_h=24)


async def endpoint_with_two_keys(desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, overlap_h: float) -> str:
    """Make an endpoint whose key k1 ends `overlap_h` after now, and k2 that stays."""
    connection_id = await desk.connect(kit.payer)
    async with desk.database.unit_of_work() as uow:
        connection = await connections.by_id(uow.connection, connection_id)
        assert isinstance(connection, Connection)
        stored = await acts.create(uow, connection, "old-secret", EndpointSettings(), "ann")
    clock.advance(60)
    async with desk.database.unit_of_work() as uow:
        found = await acts.open(uow, stored.endpoint.id)
        assert found is not None
        await acts.add_key(uow, found, "new-secret", "ann", (None, overlap_h))
    return stored.endpoint.id


async def last_uses(database: Database) -> dict[str, datetime | None]:
    found = await rows(database.dsn, "SELECT key_id, last_used_at FROM endpoint_secrets ORDER BY key_id")
    return {row["key_id"]: row["last_used_at"] for row in found}


async def take(database: Database, handlers: Handlers, *messages: Message) -> None:
    async with database.unit_of_work() as uow:
        await handlers.deliveries(uow, messages)


async def test_a_keys_last_use_is_learnt_once_a_minute(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, handlers: Handlers
) -> None:
    endpoint = await endpoint_with_two_keys(desk, kit, acts, clock, 24)
    start = clock.now()

    def used(key_id: str, seconds: float, origin: str = "webhook") -> Message:
        return delivery(endpoint, key_id, start + timedelta(seconds=seconds), origin)

    await take(desk.database, handlers, used("k1", 0), used("k1", 5), used("k2", 3), used("k9", 1))
    assert await last_uses(desk.database) == {
        "k1": start + timedelta(seconds=5),
        "k2": start + timedelta(seconds=3),
    }
    await take(desk.database, handlers, used("k1", 64), used("k2", 1), used("k2", 500, "replay"))
    assert await last_uses(desk.database) == {
        "k1": start + timedelta(seconds=5),
        "k2": start + timedelta(seconds=3),
    }, "not a minute yet, older, and not from the provider"
    await take(desk.database, handlers, used("k1", 65))
    assert (await last_uses(desk.database))["k1"] == start + timedelta(seconds=65)


async def test_what_a_failed_batch_learnt_is_learnt_again(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, handlers: Handlers
) -> None:
    endpoint = await endpoint_with_two_keys(desk, kit, acts, clock, 24)
    message = delivery(endpoint, "k1", clock.now())

    async def fail() -> None:
        async with desk.database.unit_of_work() as uow:
            await handlers.deliveries(uow, [message])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert (await last_uses(desk.database))["k1"] is None
    await take(desk.database, handlers, message)
    assert (await last_uses(desk.database))["k1"] == clock.now()


async def test_a_batch_does_not_wait_for_a_key_that_is_being_changed(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, handlers: Handlers
) -> None:
    endpoint = await endpoint_with_two_keys(desk, kit, acts, clock, 24)
    async with desk.database.unit_of_work() as other:
        await other.connection.execute("SELECT 1 FROM endpoint_secrets WHERE key_id = 'k1' FOR UPDATE")
        both = [delivery(endpoint, key_id, clock.now()) for key_id in ("k1", "k2")]
        await take(desk.database, handlers, *both)
    assert await last_uses(desk.database) == {"k1": None, "k2": clock.now()}


async def test_an_old_key_in_use_near_its_end_is_warned_of_once(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, watch: KeyWatch
) -> None:
    endpoint = await endpoint_with_two_keys(desk, kit, acts, clock, 26)

    async def used(key_id: str) -> None:
        async with desk.database.unit_of_work() as uow:
            await endpoints.note_uses(uow.connection, {(endpoint, key_id): clock.now()})

    await used("k1")
    assert await watch.check() == 0, "it ends in more than 24 h"
    clock.advance(2 * 3600)
    assert await watch.check() == 0, "it was not used in the last hour"
    await used("k2")
    assert await watch.check() == 0, "the key that stays may be used"
    await used("k1")
    assert [await watch.check() for _ in range(2)] == [1, 1]
    assert gauge(KEYS_EXPIRING_IN_USE)._value.get() == 1
    found = await rows(desk.database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", PLATFORM_AUDIT.name)
    entries = [decode(AuditRecorded, row["value"]) for row in found]
    warnings = [one for one in entries if one.action == "endpoint.old_key_still_used"]
    assert [(one.actor, one.target, one.detail["key_id"]) for one in warnings] == [
        ("sync-worker", f"endpoint/{endpoint}", "k1")
    ]
    clock.advance(3601)
    assert await watch.check() == 0
    assert gauge(KEYS_EXPIRING_IN_USE)._value.get() == 0


async def test_a_use_right_after_a_rotation_is_no_warning(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, watch: KeyWatch
) -> None:
    endpoint = await endpoint_with_two_keys(desk, kit, acts, clock, 24)
    async with desk.database.unit_of_work() as uow:
        await endpoints.note_uses(uow.connection, {(endpoint, "k1"): clock.now()})
    assert await watch.check() == 0, "the operator has had no time yet to tell the provider"


async def test_one_record_that_cannot_be_made_does_not_stop_the_others(
    desk: Any, kit: Any, acts: Endpoints, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for account in ("a", "b"):
        connection_id = await desk.connect(kit.payer, account)
        async with desk.database.unit_of_work() as uow:
            connection = await connections.by_id(uow.connection, connection_id)
            assert connection is not None
            settings = EndpointSettings()
            made.append((await acts.create(uow, connection, f"secret-{account}", settings, "ann")).endpoint.id)
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE endpoints SET republish_at = $1", clock.now())
        unpublished = {"allowed_ips": "provider"}  # the manifest has no ranges (any more)
        await connection.execute("UPDATE endpoints SET settings = $2 WHERE id = $1", made[0], unpublished)
    monkeypatch.setattr("sync_worker.endpoints.republish.BATCH", 2)
    republisher = Republisher(desk.database, acts, clock)
    assert [await republisher.publish_batch() for _ in range(2)] == [2, 0]
    due = await rows(desk.database.dsn, "SELECT id FROM endpoints WHERE republish_at > $1", clock.now())
    assert [row["id"] for row in due] == made[:1], "it is tried again later, and nothing was published about it"
