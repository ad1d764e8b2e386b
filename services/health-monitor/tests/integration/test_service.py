"""The whole service on a real broker: calls in, routes and audit out."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chassis.http.auth import Role
from chassis.testing.harness import read_topic, rows, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, produce, running
from contracts.codec import decode
from contracts.events.health import RouteChanged
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CallRun, CallsObserved, Outcome
from contracts.topics import HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_CALLS
from health_monitor.app import create
from health_monitor.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


def calls(provider: str, outcome: Outcome, count: int) -> CallsObserved:
    run = CallRun(
        operation="op", outcome=outcome, count=count, tenant="t", credential="c", latency_ms_sum=9, latency_ms_max=3
    )
    return CallsObserved(
        worker="w", provider=provider, capability="messaging.sms", observed_at=datetime.now(UTC), runs=(run,)
    )


async def test_an_outage_and_a_recovery_reach_the_routes_topic(
    kafka_bootstrap: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    await declared_topics(kafka_bootstrap, SYNC_CALLS, HEALTH_ROUTES, PLATFORM_AUDIT)
    provider = f"p{uuid.uuid4().hex[:8]}"
    key = f"{provider}:messaging.sms"
    settings = Settings(
        **issuer.settings(),
        kafka_bootstrap=kafka_bootstrap,
        http_port=free_port(),
        database_url=SecretStr(await migrated_dsn(postgres_server, "health_monitor")),
    )

    async def routes() -> list[RouteChanged]:
        seen = [decode(RouteChanged, r.value or b"") for r in await read_topic(kafka_bootstrap, HEALTH_ROUTES.name)]
        return [route for route in seen if route.provider == provider]

    async def last_state(state: str) -> bool:
        found = await routes()
        return bool(found) and found[-1].state == state

    async with running(create(settings)) as url, httpx.AsyncClient(headers=issuer.headers(Role.VIEWER)) as client:
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 1), calls(provider, "timeout", 6))
        await until(lambda: last_state("down"), "the route goes down")
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 10))
        await until(lambda: last_state("healthy"), "the route comes back")
        shown: dict[str, Any] = (await client.get(f"{url}/v1/health/messaging.sms/{provider}")).json()
        assert (shown["state"], shown["windows"]["5m"]["outcomes"]["timeout"]) == ("healthy", 6)
        metrics = (await client.get(f"{url}/metrics")).text
        assert f'health_route_share_ratio{{capability="messaging.sms",provider="{provider}"}} 1.0' in metrics

    published = await routes()
    assert [route.state for route in published] == ["healthy", "down", "recovering", "healthy"]
    assert [route.epoch for route in published] == sorted({route.epoch for route in published})
    audit = [decode(AuditRecorded, r.value or b"") for r in await read_topic(kafka_bootstrap, PLATFORM_AUDIT.name)]
    assert [a.detail["after"] for a in audit if a.target.endswith(provider)] == [r.state for r in published]
    stored = await rows(settings.database_url.get_secret_value(), "SELECT after FROM route_transitions")
    assert len(stored) == len(published)
