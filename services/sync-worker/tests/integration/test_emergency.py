"""An operator's emergency: who may ask, what is written down, and what it takes of the real limiter's quota."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from chassis.http.auth import Role
from chassis.redis import connect
from chassis.testing.harness import rows
from contracts.errors import Transient
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.topics import Lane
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.store import QuotaStore
from sync_worker.limiter.usage import RetryBudgets, UsageBook

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.usefixtures("fakes")]

REASON = "the venue burns, every guest must hear of it now"
BODY = {
    "operation": "payment.refund",
    "tenant": "t1",
    "arguments": {"payment_external_id": "p1", "amount": 500, "currency": "EUR", "reason": "fire"},
}


async def origins(platform: Any) -> list[str]:
    return [row["origin"] for row in await rows(platform.database.dsn, "SELECT origin FROM effects ORDER BY key")]


async def test_an_emergency_is_an_operators_with_a_reason_and_is_audited(platform: Any) -> None:
    await platform.connect("w")
    made = await platform.api.post("/v1/operations", json=BODY | {"emergency": True, "reason": REASON})
    assert made.status_code == 202, made.text
    assert await origins(platform) == ["operator-emergency"]
    (actor, action, detail) = (await platform.audited())[-1]
    assert (actor, action) == ("ann", "operation.requested")
    assert (detail["emergency"], detail["reason"]) == ("yes", REASON)


@pytest.mark.parametrize("more", [{}, {"reason": " x "}, {"reason": REASON, "lane": "bulk"}])
async def test_an_emergency_without_a_reason_or_in_bulk_is_refused(platform: Any, more: dict[str, Any]) -> None:
    refused = await platform.api.post("/v1/operations", json=BODY | {"emergency": True} | more)
    assert refused.status_code == 422, refused.text
    assert ("bulk" if "lane" in more else "reason") in refused.text
    assert await origins(platform) == []


async def test_what_is_no_emergency_says_nothing_of_one(platform: Any) -> None:
    await platform.connect("w")
    assert (await platform.api.post("/v1/operations", json=BODY)).status_code == 202
    assert await origins(platform) == ["operator"]
    assert "emergency" not in (await platform.audited())[-1][2]


async def test_neither_viewers_nor_services_may_ask(platform: Any, issuer: Any) -> None:
    for role in (Role.VIEWER, Role.SERVICE):
        answer = await platform.api.post(
            "/v1/operations", json=BODY | {"emergency": True, "reason": REASON}, headers=issuer.headers(role)
        )
        assert answer.status_code == 403


@pytest_asyncio.fixture
async def limited(desk: Any, kit: Any, redis_url: str) -> AsyncIterator[Any]:
    """Give a desk in real time whose calls to the payer are counted by the real limiter: 100 in a long window."""
    redis, clock = connect(redis_url), SystemClock()
    limiter = Limiter(
        QuotaStore(redis, "w", timeout_s=5), clock, UsageBook(clock, "w"), RetryBudgets(clock.monotonic), workers=1
    )
    running = asyncio.create_task(limiter.run())
    made = type(desk)(desk.database, desk.keyring, clock=clock)
    made.path = kit.path_of(made.tokens, made.client, made.routes, clock, limiter)
    made.limiter = limiter
    made.participant._path = made.path
    # Windows begin at multiples of their length: this one has just begun, and none of it is set free by its end.
    window = QuotaWindow(limit=100, seconds=int(clock.now().timestamp()) - 10, shape="fixed")
    policy = QuotaPolicy(
        provider="payer", bucket="account", windows=(window,), version=1, decided_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    made.path._quotas.policies.put(policy)
    # A store that knew nothing of the provider grants little at first; bulk waits until that is over.
    warm_up = made.path._quotas.policies.path("payer", "warm-up")
    await limiter.take(warm_up, "bulk", 1.0, clock.monotonic() + 20)
    yield made
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await redis.flushdb()
    await redis.aclose()


async def call(limited: Any, kit: Any, payment: Any, *, origin: str) -> str:
    """Have one refund tried with 0.4 s to its deadline; returns what became of it."""
    limited.saga = kit.new_id()
    soon = limited.clock.now() + timedelta(seconds=0.4)
    command = limited.refund(payment, lane=Lane.CRITICAL, deadline=soon)
    async with limited.database.unit_of_work() as uow:
        await limited.desk.take(uow, [(command, "")], origin=origin)
    limited.client.script[:] = [kit.answered(200, {"id": "re_1"})]
    await limited.execute(command.effect_key)
    return str((await limited.answers())[-1].status)


async def spent(limited: Any, connection: Any) -> int:
    """Take what critical calls may have, and return how much that was."""
    path = limited.path._quotas.policies.path("payer", str(connection))
    taken = 0
    with suppress(Transient):
        while taken < 100:
            await limited.limiter.take(path, "critical", 1.0, limited.clock.monotonic() + 0.5)
            taken += 1
    return taken


async def test_an_emergency_takes_from_its_own_twentieth_and_from_nothing_else(limited: Any, kit: Any) -> None:
    """Of 100 calls 98 are given out: 5 of them are an emergency's, whether there is one or not."""
    quiet = await limited.connect(kit.payer, "quiet")
    assert 90 < await spent(limited, quiet) <= 93
    connection = await limited.connect(kit.payer, "burning")
    payment = await limited.pay(kit.payer, connection)
    assert [await call(limited, kit, payment, origin="operator-emergency") for _ in range(3)] == ["applied"] * 3
    assert await call(limited, kit, payment, origin="operator") == "applied"
    # 92 are left to the others, and 89 if emergencies came out of the same. A busy machine may let a lease lapse.
    assert 89 < await spent(limited, connection) <= 92
    sent = len(limited.client.calls)
    for origin in ("saga", "operator"):
        assert await call(limited, kit, payment, origin=origin) == "parked"
    more = [await call(limited, kit, payment, origin="operator-emergency") for _ in range(3)]
    assert more == ["applied", "applied", "parked"]
    assert len(limited.client.calls) == sent + 2
