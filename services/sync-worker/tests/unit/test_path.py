"""The eleven steps of a call: what stops it, in which order, and what is never sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from chassis.testing.clock import ManualClock
from contracts.errors import Terminal, Transient
from contracts.events.health import RouteChanged, RouteState
from contracts.modes import Mode
from providers.sdk import Account, HttpRequest
from sync_worker.outbound.breaker import ROUTE
from sync_worker.outbound.path import DOUBT_S, Plan
from sync_worker.outbound.route_table import RouteTable

pytestmark = pytest.mark.asyncio

CONNECTION = UUID(int=7)


class Tokens:
    """Accounts whose token has a number; `renew` gives the next one, or raises."""

    def __init__(self) -> None:
        self.number = 1
        self.mode: Mode = "live"
        self.error: Exception | None = None
        self.renewal: Exception | None = None
        self.reauth: list[str] = []

    async def account(self, _id: UUID, *, wait_s: float | None = None) -> Account:
        del wait_s
        if self.error is not None:
            raise self.error
        return Account("acct", {"api_key": f"token-{self.number}"}, mode=self.mode, version=self.number)

    async def renew(self, connection: UUID, refused: Account, *, wait_s: float | None = None) -> Account:
        assert refused.version == self.number
        if self.renewal is not None:
            raise self.renewal
        self.number += 1
        return await self.account(connection, wait_s=wait_s)

    async def needs_reauth(self, _id: UUID, reason: str) -> None:
        self.reauth.append(reason)


class Client:
    """The client's port: answers from a list, and notes what was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[HttpRequest] = []
        self.all_at_once = False

    async def send(self, _provider: Any, _account: Account, request: HttpRequest, *_: Any, **__: Any) -> Any:
        self.sent.append(request)
        return self.answers.pop(0)


class Desk:
    """A path with its surroundings."""

    def __init__(self, kit: Any, *answers: Any) -> None:
        self.kit = kit
        self.clock, self.routes, self.tokens = ManualClock(kit.start), RouteTable(), Tokens()
        self.client = Client(*answers)
        self.path = kit.path_of(self.tokens, self.client, self.routes, self.clock, doubts=True)
        self.marks = 0
        self.mark_says = True

    async def mark(self) -> bool:
        self.marks += 1
        assert self.client.all_at_once or not self.client.sent, "it is marked before anything leaves"
        return self.mark_says

    async def call(self, **known: Any) -> Any:
        plan = Plan(
            provider=self.kit.payer,
            connection=CONNECTION,
            tenant="t1",
            capability="payments",
            operation="payment.refund",
            build=lambda _account: HttpRequest("POST", "/effects"),
            timeout_s=10,
            **known,
        )
        return await self.path.call(plan, self.mark)


def down(kit: Any) -> RouteChanged:
    return RouteChanged(
        provider="payer",
        capability="payments",
        epoch=(1, 1),
        state=RouteState.DOWN,
        share=0,
        reason="4 of 4 calls failed",
        decided_at=kit.start,
    )


async def test_a_call_is_marked_then_sent_with_the_credential_of_the_moment(kit: Any) -> None:
    desk = Desk(kit, kit.answered(200, {"id": 1}))
    result = await desk.call()
    assert (result.meaning, desk.marks) == ("success", 1)
    assert desk.client.sent[0].headers["Authorization"] == "Bearer token-1"


@pytest.mark.parametrize(
    ("error", "meaning", "code"),
    [
        (Terminal("needs_reauth", "…"), "no_connection", "needs_reauth"),
        (Transient("token_unavailable", "…"), "parked", "token_unavailable"),
    ],
)
async def test_without_a_working_connection_nothing_is_marked(
    kit: Any, error: Exception, meaning: str, code: str
) -> None:
    desk = Desk(kit)
    desk.tokens.error = error
    result = await desk.call()
    assert (result.meaning, result.code, desk.marks) == (meaning, code, 0)


async def test_a_shut_route_parks_and_a_probe_takes_it_all_the_same(kit: Any) -> None:
    desk = Desk(kit, kit.answered(200))
    desk.routes.put(down(kit))
    parked = await desk.call()
    assert (parked.meaning, parked.code, desk.marks) == ("parked", "route_shut", 0)
    assert "4 of 4 calls failed" in parked.detail
    assert (await desk.call(probe=True)).meaning == "success"


async def test_no_attempt_starts_without_time_left(kit: Any) -> None:
    desk = Desk(kit)
    result = await desk.call(deadline=desk.clock.now() + timedelta(milliseconds=50))
    assert (result.meaning, desk.marks) == ("expired", 0)


async def test_failures_in_a_row_open_this_workers_breaker(kit: Any) -> None:
    desk = Desk(kit, *[kit.broken] * 5)
    for _ in range(5):
        # Past what the route's own breaker holds: this is about the account's.
        desk.clock.advance(ROUTE.max_hold_s)
        assert (await desk.call()).meaning == "unclear"
        desk.client.sent.clear()
    parked = await desk.call()
    assert (parked.meaning, parked.code) == ("parked", "breaker_open")
    assert parked.retry_after_s > ROUTE.max_hold_s / 2


async def doubtful(kit: Any, *answers: Any) -> Desk:
    """Return a desk whose last two calls failed."""
    desk = Desk(kit, kit.broken, kit.broken, *answers)
    for _ in range(2):
        await desk.call()
        desk.client.sent.clear()
    return desk


async def passed(desk: Desk, calls: list[asyncio.Task[Any]], seconds: float) -> None:
    """Let a call's wait go by in steps."""
    for _ in range(round(seconds / 0.05)):
        for _ in range(5):
            await asyncio.sleep(0)
        if all(call.done() for call in calls):
            return
        desk.clock.advance(0.05)


async def test_after_two_failures_calls_wait_for_one_that_tries(kit: Any) -> None:
    desk = await doubtful(kit, *[kit.answered(200)] * 3)
    desk.client.all_at_once = True
    calls = [asyncio.create_task(desk.call()) for _ in range(3)]
    await passed(desk, calls, ROUTE.hold_s - 0.1)
    assert desk.client.sent == [], "nothing leaves while nobody knows"
    await passed(desk, calls, 0.5)
    assert [(await call).meaning for call in calls] == ["success"] * 3


async def test_calls_that_wait_are_parked_as_soon_as_the_health_monitor_has_decided(kit: Any) -> None:
    desk = await doubtful(kit)
    call = asyncio.create_task(desk.call())
    await passed(desk, [call], 0.1)
    desk.routes.put(down(kit))
    await passed(desk, [call], 0.1)
    assert ((await call).code, desk.client.sent) == ("route_shut", [])


async def test_a_trial_that_fails_parks_the_others_because_the_next_one_is_too_far_off(kit: Any) -> None:
    desk = await doubtful(kit, kit.broken)
    desk.client.all_at_once = True
    calls = [asyncio.create_task(desk.call()) for _ in range(4)]
    await passed(desk, calls, DOUBT_S + 0.5)
    found = Counter([(await call).code for call in calls])
    assert (found["breaker_open"], len(desk.client.sent)) == (3, 1), found


async def test_retries_have_a_budget(kit: Any) -> None:
    desk = Desk(kit, *[kit.answered(429)] * 500)
    codes = []
    for _ in range(150):
        codes.append((await desk.call(attempt=2)).code)
        desk.client.sent.clear()
    assert codes.count("retry_budget") >= 40, "500 tokens at 5 a retry are a hundred of them"


async def test_a_call_takes_route_and_retries_of_its_connections_mode(kit: Any) -> None:
    desk = Desk(kit, *[kit.answered(429)] * 500)
    shut = RouteChanged(
        provider="payer",
        capability="payments",
        mode="sandbox",
        epoch=(1, 1),
        state=RouteState.DOWN,
        share=0,
        reason="it is broken on purpose",
        decided_at=kit.start,
    )
    desk.routes.put(shut)
    assert (await desk.call()).meaning == "throttled"
    desk.client.sent.clear()
    desk.tokens.mode = "sandbox"
    parked = await desk.call()
    assert (parked.code, "payer (sandbox) is down" in parked.detail) == ("route_shut", True)
    desk.routes.put(shut.model_copy(update={"epoch": (1, 2), "state": RouteState.HEALTHY, "share": 100}))
    codes = []
    for _ in range(150):
        codes.append((await desk.call(attempt=2)).code)
        desk.client.sent.clear()
    assert "retry_budget" in codes, "the sandbox has spent its own"
    desk.tokens.mode = "live"
    assert (await desk.call(attempt=2)).code == ""


async def test_an_effect_that_somebody_else_has_is_not_sent(kit: Any) -> None:
    desk = Desk(kit)
    desk.mark_says = False
    assert (await desk.call()).meaning == "superseded"
    assert desk.client.sent == []


async def test_a_refused_credential_is_renewed_once(kit: Any) -> None:
    desk = Desk(kit, kit.answered(401), kit.answered(200, {"id": 1}))
    assert (await desk.call()).meaning == "success"
    assert [one.headers["Authorization"] for one in desk.client.sent] == ["Bearer token-1", "Bearer token-2"]
    assert desk.tokens.reauth == []


async def test_a_renewed_credential_that_is_refused_too_waits_for_a_person(kit: Any) -> None:
    desk = Desk(kit, kit.answered(401), kit.answered(401))
    assert (await desk.call()).meaning == "credential"
    assert len(desk.tokens.reauth) == 1


async def test_a_slow_token_endpoint_calls_nobody(kit: Any) -> None:
    desk = Desk(kit, kit.answered(401))
    desk.tokens.renewal = Transient("token_unavailable", "…")
    assert (await desk.call()).meaning == "credential"
    assert desk.tokens.reauth == []
