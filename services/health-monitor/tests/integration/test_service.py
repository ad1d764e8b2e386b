"""The whole service on a real broker and Redis: calls in; decisions in the mirror, topic and audit out."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chassis.http.auth import Role
from chassis.mirror import read_all
from chassis.redis import connect
from chassis.testing.harness import read_topic, rows, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, produce, running
from contracts.codec import decode
from contracts.events.health import QuotaPolicy, RouteChanged
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CallsObserved, Outcome, QuotaUsage
from contracts.modes import MODES, Mode, calls_key, quota_key
from contracts.topics import HEALTH_QUOTAS, HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_CALLS, SYNC_QUOTA_USAGE
from health_monitor.app import create
from health_monitor.limits import published
from health_monitor.settings import Settings
from health_monitor_support.calls import one_call

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


def calls(provider: str, outcome: Outcome, count: int, *, probe: bool = False, mode: Mode = "live") -> CallsObserved:
    runs = tuple(one_call(outcome, f"t{number % 2}", latency_ms=3, probe=probe) for number in range(count))
    return CallsObserved(
        worker="w", provider=provider, capability="messaging.sms", mode=mode, observed_at=datetime.now(UTC), runs=runs
    )


async def settings_of(bootstrap: str, redis_url: str, admin: PostgresAdmin, issuer: LocalIssuer) -> Settings:
    await declared_topics(bootstrap, SYNC_CALLS, HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_QUOTA_USAGE, HEALTH_QUOTAS)
    return Settings(
        **issuer.settings(),
        kafka_bootstrap=bootstrap,
        redis_url=SecretStr(redis_url),
        http_port=free_port(),
        database_url=SecretStr(await migrated_dsn(admin, "health_monitor")),
    )


FORECAST = 'health_quota_forecast_ratio{{bucket="account",mode="live",provider="{}"}}'
MOVES = "SELECT after FROM route_transitions WHERE provider = $1 ORDER BY epoch_generation, epoch_counter"


async def test_an_outage_and_a_recovery_reach_the_mirror_and_the_topic(
    kafka_bootstrap: str, redis_url: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    provider = f"p{uuid.uuid4().hex[:8]}"
    key = f"{provider}:messaging.sms"
    settings = await settings_of(kafka_bootstrap, redis_url, postgres_server, issuer)
    redis = connect(redis_url)

    async def mirrored() -> RouteChanged | None:
        found = (await read_all(redis, provider)).get("messaging.sms")
        return None if found is None else decode(RouteChanged, found.value)

    def in_mirror(*states: str) -> Any:
        async def check() -> bool:
            found = await mirrored()
            return found is not None and found.state in states

        return check

    async def probed_until(*states: str) -> None:
        async def check() -> bool:
            await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 1, probe=True))
            await asyncio.sleep(0.2)  # lint-skip: PB011 probes of a real worker are this far apart
            return bool(await in_mirror(*states)())

        await until(check, f"the route in {states}")

    async def audited() -> bool:
        audit = [decode(AuditRecorded, r.value or b"") for r in await read_topic(kafka_bootstrap, PLATFORM_AUDIT.name)]
        stored = await rows(settings.database_url.get_secret_value(), MOVES, provider)
        return [row["after"] for row in stored] == [a.detail["after"] for a in audit if a.target.endswith(provider)]

    async with running(create(settings)) as url, httpx.AsyncClient(headers=issuer.headers(Role.VIEWER)) as client:
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 1), calls(provider, "timeout", 6))
        await until(in_mirror("down"), "the route goes down")
        await probed_until("recovering", "healthy")
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 40))
        await until(in_mirror("healthy"), "the route comes back")
        await redis.flushdb()
        await until(in_mirror("healthy"), "the mirror is refilled after a flush")
        shown: dict[str, Any] = (await client.get(f"{url}/v1/routes/messaging.sms/{provider}")).json()
        assert (shown["state"], shown["windows"]["5m"]["outcomes"]["timeout"]) == ("healthy", 6)
        await until(audited, "every decision is in the audit log, in its order")
        metrics = (await client.get(f"{url}/metrics")).text
        labels = f'capability="messaging.sms",mode="live",provider="{provider}",state="healthy"'
        assert f"provider_state{{{labels}}} 1.0" in metrics
        assert f'provider_failovers_total{{from="{provider}",mode="live",reason="outage",to="none"}} 1.0' in metrics

    await redis.aclose()
    seen = [decode(RouteChanged, r.value or b"") for r in await read_topic(kafka_bootstrap, HEALTH_ROUTES.name)]
    published = [route for route in seen if route.provider == provider]
    states = [route.state.value for route in published]
    assert [state for at, state in enumerate(states) if at == 0 or states[at - 1] != state] == [
        "healthy",
        "suspect",
        "down",
        "recovering",
        "healthy",
    ]
    assert [route.epoch for route in published] == sorted({route.epoch for route in published})


async def test_a_restart_goes_on_where_the_last_owner_stopped(
    kafka_bootstrap: str, redis_url: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    provider = f"p{uuid.uuid4().hex[:8]}"
    key = f"{provider}:messaging.sms"
    settings = await settings_of(kafka_bootstrap, redis_url, postgres_server, issuer)
    redis = connect(redis_url)

    async def owned(generation: int) -> bool:
        found = (await read_all(redis, provider)).get("messaging.sms")
        return found is not None and found.epoch[0] == generation and b'"down"' in found.value

    async with running(create(settings)):
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "success", 1), calls(provider, "timeout", 6))
        await until(lambda: owned(1), "the route is down")
    async with running(create(settings)):
        await produce(kafka_bootstrap, SYNC_CALLS, key, calls(provider, "client_error", 1))
        await until(lambda: owned(2), "the next owner says so under its own generation")
    await redis.aclose()


async def test_a_sandbox_outage_has_its_own_place_in_the_mirror_and_on_the_topic(
    kafka_bootstrap: str, redis_url: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    provider = f"p{uuid.uuid4().hex[:8]}"
    settings = await settings_of(kafka_bootstrap, redis_url, postgres_server, issuer)
    redis = connect(redis_url)

    async def state(mode: Mode) -> str | None:
        group = provider if mode == "live" else f"{provider}:sandbox"
        found = (await read_all(redis, group)).get("messaging.sms")
        return None if found is None else decode(RouteChanged, found.value).state

    async def sandbox_is_down() -> bool:
        return await state("sandbox") == "down"

    async def both_are_known() -> bool:
        return None not in (await state("live"), await state("sandbox"))

    async with running(create(settings)):
        for mode in MODES:
            place = calls_key(provider, "messaging.sms", mode)
            await produce(kafka_bootstrap, SYNC_CALLS, place, calls(provider, "success", 20, mode=mode))
        await until(both_are_known, "both routes are known")
        await produce(kafka_bootstrap, SYNC_CALLS, place, calls(provider, "timeout", 6, mode="sandbox"))
        await until(sandbox_is_down, "the sandbox route goes down")
        assert await state("live") == "healthy"
    await redis.aclose()
    newest = {
        (record.key or b"").decode(): decode(RouteChanged, record.value or b"")
        for record in await read_topic(kafka_bootstrap, HEALTH_ROUTES.name)
    }
    place = f"messaging.sms:{provider}"
    assert (newest[place].mode, newest[place].state) == ("live", "healthy")
    assert (newest[f"{place}:sandbox"].mode, newest[f"{place}:sandbox"].state) == ("sandbox", "down")


async def test_a_report_of_use_becomes_a_policy_a_metric_and_a_row_of_the_listing(
    kafka_bootstrap: str, redis_url: str, postgres_server: PostgresAdmin, issuer: LocalIssuer
) -> None:
    settings = await settings_of(kafka_bootstrap, redis_url, postgres_server, issuer)
    known = sorted(published().items())
    key, windows = next(one for one in known if one[0].bucket == "account" and one[1][0].seconds == 60)
    owner, place, at = str(uuid.uuid4()), quota_key(*key), datetime.now(UTC)
    spent = 2 * windows[0].limit
    usage = QuotaUsage(
        provider=key.provider, bucket="account", owner=owner, worker="w", used={"critical": spent}, since=at, until=at
    )

    async def slowed() -> QuotaPolicy | None:
        await produce(kafka_bootstrap, SYNC_QUOTA_USAGE, place, usage)
        found = [one for one in await read_topic(kafka_bootstrap, HEALTH_QUOTAS.name) if one.key == place.encode()]
        told = [policy for one in found if owner in (policy := decode(QuotaPolicy, one.value or b"")).trims]
        return told[-1] if told else None

    async with running(create(settings)) as url, httpx.AsyncClient(headers=issuer.headers(Role.VIEWER)) as client:
        policy: QuotaPolicy = await until(slowed, "the owner is slowed")
        assert policy.trims == {owner: {"bulk": 1.0, "interactive": 1.0, "probe": 1.0}}
        assert policy.windows == windows

        async def listed() -> dict[str, Any] | None:
            items = (await client.get(f"{url}/v1/quotas", params={"limit": 200})).json()["items"]
            return next(
                (one for one in items if (one["provider"], one["bucket"]) == key[:2] and one["worst_owner"]), None
            )

        shown: dict[str, Any] = await until(listed, "the listing knows whose forecast is worst")
        assert (shown["owners_trimmed"], shown["worst_owner"]) == (1, owner)
        assert shown["used_ratio"] > 1
        metrics = (await client.get(f"{url}/metrics")).text
        (line,) = [one for one in metrics.splitlines() if one.startswith(FORECAST.format(key.provider))]
        assert float(line.split()[-1]) > 1
    assert await read_topic(kafka_bootstrap, SYNC_QUOTA_USAGE.dlq) == []
