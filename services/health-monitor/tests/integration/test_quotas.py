"""Policies follow manifests, use, 429s and operators, and survive a restart. Real database, no broker."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.records import Message, Origin
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.health import QuotaPolicy
from contracts.events.platform import AuditRecorded
from contracts.events.sync import QuotaUsage
from contracts.topics import HEALTH_QUOTAS, PLATFORM_AUDIT
from health_monitor.limits import published
from health_monitor.quota_routes import quota_routes
from health_monitor.quotas import Quotas

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

KEY, WINDOW = next(iter(sorted(published().items())))


async def policies(database: Database) -> list[QuotaPolicy]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", HEALTH_QUOTAS.name)
    return [decode(QuotaPolicy, row["value"]) for row in found]


async def use(database: Database, quotas: Quotas, clock: ManualClock, **fields: Any) -> None:
    usage = QuotaUsage(
        provider=KEY[0], bucket=KEY[1], worker="w", since=clock.now(), until=clock.now(), **({"used": {}} | fields)
    )
    envelope = Envelope(id="1", source="test", type=QuotaUsage.TYPE, data=encode(usage))
    async with database.unit_of_work() as uow:
        await quotas.handle(uow, [Message(envelope, b"key", Origin("topic", 0, 0), [])])


async def test_the_first_use_publishes_the_manifests_limit_and_more_of_the_same_nothing(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    for _ in range(3):
        await use(database, quotas, clock, used={"interactive": 0.001})
        clock.advance(1)
    (policy,) = await policies(database)
    assert (policy.windows, policy.source, policy.trim, policy.version) == ((WINDOW,), "published", {}, 1)


async def test_a_forecast_beyond_the_quota_trims_bulk_first_and_says_so(database: Database, clock: ManualClock) -> None:
    quotas = Quotas(database, clock)
    second = WINDOW.limit / WINDOW.seconds
    for _ in range(20):
        await use(database, quotas, clock, used={"bulk": second * 1.9})
        clock.advance(1)
    last = (await policies(database))[-1]
    assert last.trim.get("bulk", 0) > 0
    assert "expected at the end of the window" in last.reason
    versions = [policy.version for policy in await policies(database)]
    assert versions == list(range(1, len(versions) + 1))


async def test_a_provider_whose_interactive_calls_are_trimmed_takes_nothing_over(
    database: Database, clock: ManualClock
) -> None:
    quotas = Quotas(database, clock)
    assert quotas.has_quota(KEY.provider, "live")
    second = WINDOW.limit / WINDOW.seconds
    for _ in range(20):
        await use(database, quotas, clock, used={"interactive": second * 3})
        clock.advance(1)
    assert not quotas.has_quota(KEY.provider, "live")
    assert quotas.has_quota(KEY.provider, "sandbox")


async def test_a_learned_limit_survives_a_restart(database: Database, clock: ManualClock) -> None:
    await use(database, Quotas(database, clock), clock, estimate=0.75)
    await use(database, Quotas(database, clock), clock)
    last = (await policies(database))[-1]
    assert (last.source, last.windows[0].limit) == ("learned", 0.75)


async def test_an_operator_sets_a_limit_and_takes_it_back(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    quotas = Quotas(database, clock)
    await use(database, quotas, clock)
    table = quota_routes(database, issuer.verifier(), clock, quotas)
    url = f"/v1/quotas/{KEY[0]}/{KEY[1]}"
    wanted = {"windows": [{"limit": 500, "seconds": 60, "shape": "fixed"}], "reason": "contract of March"}
    async with api_client(table, issuer.headers(Role.OPERATOR, subject="kim")) as api:
        put = await api.put(url, json=wanted)
        assert put.status_code == 200, put.text
        assert (put.json()["source"], put.json()["windows"][0]["limit"]) == ("configured", 500)
        clock.advance(timedelta(hours=1).total_seconds())
        await use(database, quotas, clock)
        listed = (await api.get("/v1/quotas", headers=issuer.headers(Role.VIEWER))).json()["items"]
        assert [(one["provider"], one["bucket"], one["mode"], one["configured"]) for one in listed] == [(*KEY, True)]
        back = await api.put(url, json={"windows": [], "reason": "over"})
        assert back.json()["source"] == "published"
        assert (await api.put("/v1/quotas/nobody/account", json=wanted)).status_code == 404
        assert (await api.put(f"/v1/quotas/{KEY[0]}/moon", json=wanted)).status_code == 404
        assert (await api.put(url, json={"windows": []})).status_code == 422
        assert (await api.put(url, json=wanted, headers=issuer.headers(Role.VIEWER))).status_code == 403
    assert [policy.source for policy in await policies(database)] == ["published", "configured", "published"]
    assert [policy.mode for policy in await policies(database)] == ["live"] * 3
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1", PLATFORM_AUDIT.name)
    audited = [decode(AuditRecorded, row["value"]) for row in found]
    assert {(one.actor, one.action) for one in audited} == {("kim", "quota.configured")}


async def test_what_the_sandbox_uses_and_learns_is_its_own(database: Database, clock: ManualClock) -> None:
    quotas = Quotas(database, clock)
    second = WINDOW.limit / WINDOW.seconds
    await use(database, quotas, clock, used={"interactive": 0.001})
    for _ in range(20):
        await use(database, quotas, clock, mode="sandbox", used={"interactive": second * 3})
        clock.advance(1)
    assert (quotas.has_quota(KEY.provider, "live"), quotas.has_quota(KEY.provider, "sandbox")) == (True, False)
    await use(database, quotas, clock, mode="sandbox", estimate=0.75)
    await use(database, quotas, clock, used={"interactive": 0.001})
    told = {policy.mode: policy for policy in await policies(database)}
    assert (told["live"].windows, told["live"].trim, told["live"].version) == ((WINDOW,), {}, 1)
    assert (told["sandbox"].source, told["sandbox"].windows[0].limit) == ("learned", 0.75)
    keys = await rows(database.dsn, "SELECT DISTINCT key FROM outbox WHERE topic = $1", HEALTH_QUOTAS.name)
    place = f"{KEY.provider}:{KEY.bucket}"
    assert {bytes(row["key"]).decode() for row in keys} == {place, f"{place}:sandbox"}


async def test_the_sandbox_has_the_operators_live_limit_until_it_has_its_own(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    quotas = Quotas(database, clock)
    table = quota_routes(database, issuer.verifier(), clock, quotas)
    url = f"/v1/quotas/{KEY.provider}/{KEY.bucket}"

    def wanted(limit: int, **more: str) -> dict[str, Any]:
        return {"windows": [{"limit": limit, "seconds": 60, "shape": "fixed"}], "reason": "contract", **more}

    async def in_sandbox() -> tuple[str, float]:
        await use(database, quotas, clock, mode="sandbox", used={"bulk": 0.001})
        last = next(one for one in reversed(await policies(database)) if one.mode == "sandbox")
        return last.source, last.windows[0].limit

    async with api_client(table, issuer.headers(Role.OPERATOR, subject="kim")) as api:
        assert await in_sandbox() == ("published", WINDOW.limit)
        assert (await api.put(url, json=wanted(500))).json()["mode"] == "live"
        assert await in_sandbox() == ("configured", 500)
        assert (await api.put(url, json=wanted(7, mode="sandbox"))).json()["mode"] == "sandbox"
        assert await in_sandbox() == ("configured", 7)
        assert (await api.put(url, json=wanted(7, mode="test"))).status_code == 422
        listed = (await api.get("/v1/quotas", headers=issuer.headers(Role.VIEWER))).json()["items"]
    assert [(one["mode"], one["windows"][0]["limit"]) for one in listed] == [("live", 500), ("sandbox", 7)]
