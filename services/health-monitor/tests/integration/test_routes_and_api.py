"""Observed calls become statistics, decisions and messages; the API shows them. Real database, no broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, migrated_dsn, schema_differences
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.health import RouteChanged
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CallRun, CallsObserved, Outcome
from contracts.topics import HEALTH_ROUTES, PLATFORM_AUDIT
from health_monitor.handlers import Observer
from health_monitor.routes import routes

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def calls(
    *runs: tuple[Outcome, int], at: datetime = START, provider: str = "acme", latency_ms: float = 20
) -> CallsObserved:
    return CallsObserved(
        worker="w1",
        provider=provider,
        capability="messaging.sms",
        observed_at=at,
        runs=tuple(
            CallRun(
                operation="message.send",
                outcome=outcome,
                count=count,
                tenant="t1",
                credential="c1",
                latency_ms_sum=latency_ms * count,
                latency_ms_max=latency_ms,
            )
            for outcome, count in runs
        ),
    )


def message(observed: CallsObserved) -> Message:
    envelope = Envelope(id="1", source="test", type=CallsObserved.TYPE, data=encode(observed))
    return Message(envelope, b"key", Origin("topic", 0, 0), [])


async def take(database: Database, observer: Observer, *observed: CallsObserved) -> None:
    async with database.unit_of_work() as uow:
        await observer.handle(uow, [message(one) for one in observed])


async def outgoing(database: Database, topic: str) -> list[bytes]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", topic)
    return [row["value"] for row in found]


async def get(database: Database, issuer: LocalIssuer, clock: ManualClock, path: str) -> dict[str, Any]:
    async with api_client(routes(database, issuer.verifier(), clock), issuer.headers(Role.VIEWER)) as client:
        response = await client.get(path)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "health_monitor")
    assert await schema_differences(dsn, "health_monitor") == []


async def test_a_route_is_published_and_audited_on_change_only_with_growing_epochs(database: Database) -> None:
    observer = Observer(ManualClock(START), generation=1)
    for _ in range(3):
        await take(database, observer, calls(("success", 5)))
    assert len(await outgoing(database, HEALTH_ROUTES.name)) == 1
    await take(database, observer, calls(("timeout", 5)), calls(("success", 3)), calls(("success", 7)))
    published = [decode(RouteChanged, value) for value in await outgoing(database, HEALTH_ROUTES.name)]
    assert [(p.state, p.share) for p in published] == [
        ("healthy", 100),
        ("degraded", 50),
        ("down", 0),
        ("recovering", 25),
        ("healthy", 100),
    ]
    assert [p.epoch for p in published] == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]
    audited = [decode(AuditRecorded, value) for value in await outgoing(database, PLATFORM_AUDIT.name)]
    assert [a.detail["after"] for a in audited] == [p.state for p in published]
    assert {(a.actor, a.action, a.target) for a in audited} == {
        ("health-monitor", "route.changed", "route:messaging.sms:acme")
    }
    keys = await rows(database.dsn, "SELECT DISTINCT key FROM outbox WHERE topic = $1", HEALTH_ROUTES.name)
    assert [row["key"] for row in keys] == [b"messaging.sms:acme"]


async def test_a_higher_generation_raises_the_epoch_and_a_lower_one_never_lowers_it(database: Database) -> None:
    clock = ManualClock(START)
    await take(database, Observer(clock, generation=1), calls(("success", 1)))
    await take(database, Observer(clock, generation=3), calls(("timeout", 5)))
    await take(database, Observer(clock, generation=1), calls(("success", 3)))
    epochs = [decode(RouteChanged, value).epoch for value in await outgoing(database, HEALTH_ROUTES.name)]
    assert epochs == sorted(set(epochs)) == [(1, 1), (3, 2), (3, 3)]


async def test_two_replicas_at_once_lose_no_call_and_give_out_no_epoch_twice(database: Database) -> None:
    clock = ManualClock(START)
    first, second = Observer(clock, generation=1), Observer(clock, generation=1)
    await asyncio.gather(
        *(take(database, one, calls(("success", 1)), calls(("timeout", 5))) for one in (first, second) * 5)
    )
    counted = await rows(database.dsn, "SELECT success, timeout FROM call_minutes")
    assert [tuple(row) for row in counted] == [(10, 50)]
    epochs = [decode(RouteChanged, value).epoch for value in await outgoing(database, HEALTH_ROUTES.name)]
    assert sorted(epochs) == [(1, counter) for counter in range(1, len(epochs) + 1)]


async def test_a_batch_that_rolls_back_leaves_no_route_no_statistics_and_no_message(database: Database) -> None:
    observer = Observer(ManualClock(START), generation=1)

    async def fail_after_the_handler() -> None:
        async with database.unit_of_work() as uow:
            await observer.handle(uow, [message(calls(("timeout", 5)))])
            raise RuntimeError("after the handler")

    with pytest.raises(RuntimeError, match="after the handler"):
        await fail_after_the_handler()
    for table in ("routes", "route_transitions", "call_minutes", "outbox"):
        assert await rows(database.dsn, f"SELECT 1 FROM {table}") == []


async def test_statistics_older_than_a_day_are_forgotten(database: Database) -> None:
    clock = ManualClock(START)
    observer = Observer(clock, generation=1)
    await take(database, observer, calls(("success", 1)))
    clock.advance(timedelta(hours=24, minutes=2).total_seconds())
    await take(database, observer, calls(("success", 2), at=clock.now()))
    assert [row["success"] for row in await rows(database.dsn, "SELECT success FROM call_minutes")] == [2]


async def test_the_overview_has_state_reason_and_both_windows(database: Database, issuer: LocalIssuer) -> None:
    clock = ManualClock(START)
    observer = Observer(clock, generation=1)
    old = START - timedelta(minutes=30)
    await take(database, observer, calls(("success", 30), at=old, latency_ms=10))
    await take(database, observer, calls(("success", 3), ("timeout", 1), ("client_error", 4), latency_ms=40))
    body = await get(database, issuer, clock, "/v1/health")
    assert body["next"] is None
    route = body["items"][0]
    assert {name: route[name] for name in ("provider", "capability", "state", "share", "epoch", "reason")} == {
        "provider": "acme",
        "capability": "messaging.sms",
        "state": "healthy",
        "share": 100,
        "epoch": [1, 1],
        "reason": "the first call succeeded",
    }
    recent, hour = route["windows"]["5m"], route["windows"]["1h"]
    assert (recent["calls"], recent["success_rate"], recent["latency_ms_mean"]) == (8, 0.75, 40)
    assert (hour["calls"], hour["outcomes"]["success"], hour["latency_ms_max"]) == (38, 33, 40)


async def test_pages_of_the_overview_join_without_gap_or_overlap(database: Database, issuer: LocalIssuer) -> None:
    clock = ManualClock(START)
    names = [f"p{number}" for number in range(5)]
    await take(database, Observer(clock, generation=1), *(calls(("success", 1), provider=name) for name in names))
    seen, after = [], ""
    while True:
        body = await get(database, issuer, clock, f"/v1/health?limit=2{after}")
        seen += [item["provider"] for item in body["items"]]
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    assert seen == names


async def test_one_route_shows_its_decisions_newest_first(database: Database, issuer: LocalIssuer) -> None:
    clock = ManualClock(START)
    await take(database, Observer(clock, generation=1), calls(("success", 1), ("server_error", 5)))
    body = await get(database, issuer, clock, "/v1/health/messaging.sms/acme")
    assert [(t["before"], t["after"], t["epoch"]) for t in body["transitions"]] == [
        ("healthy", "down", [1, 2]),
        ("unknown", "healthy", [1, 1]),
    ]
    assert body["reason"] == "5 failures in a row (last: server_error)"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/health/messaging.sms/nobody", 404), ("/v1/health?page=2", 422), ("/v1/health?after=%21", 422)],
)
async def test_bad_requests_are_refused(database: Database, issuer: LocalIssuer, path: str, status: int) -> None:
    clock = ManualClock(START)
    async with api_client(routes(database, issuer.verifier(), clock), issuer.headers(Role.VIEWER)) as client:
        assert (await client.get(path)).status_code == status
        assert (await client.get("/v1/health", headers={"authorization": ""})).status_code == 401
        assert (await client.get("/v1/health", headers=issuer.headers(Role.SERVICE))).status_code == 403
