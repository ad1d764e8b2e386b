from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from providers import registry
from providers.fixtures import ApiCase, api_cases
from providers.outbound_conformance import golden
from providers.provider import Provider
from providers.sdk import Account, HttpRequest
from sandbox.app import Sandbox
from sandbox.catalogue import has_behaviour
from sandbox.faults import Fault, FaultDesk

pytestmark = pytest.mark.asyncio

PLAYED = [p for p in registry.all_providers() if has_behaviour(p.slug) and api_cases(p.folder)]
needs_provider = pytest.mark.skipif(not PLAYED, reason="no registered provider has an operation and a behaviour")


def provider() -> Provider:
    return PLAYED[0]


def case() -> ApiCase:
    return api_cases(provider().folder)[0]


def operation() -> HttpRequest:
    return golden(provider(), case())


async def fault(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.put(f"/_control/faults/{provider().slug}", json=body)


@needs_provider
@pytest.mark.parametrize(("mode", "status"), [("throttle", 429), ("error", 500), ("outage", 503)])
async def test_refusing_fault_applies_nothing(
    client: httpx.AsyncClient, sandbox: Sandbox, ask: Any, mode: str, status: int
) -> None:
    await fault(client, mode=mode, retry_after_s=7)
    answer = await ask(provider(), operation())
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == ("7" if mode == "throttle" else None)
    assert sandbox.world.effects == []
    assert (await client.delete(f"/_control/faults/{provider().slug}")).status_code == 204
    assert (await ask(provider(), operation())).is_success


@needs_provider
async def test_dropped_answer_leaves_the_effect(served: httpx.AsyncClient, sandbox: Sandbox, ask: Any) -> None:
    await fault(served, mode="drop_after_apply", count=1)
    request = operation()
    with pytest.raises(httpx.RemoteProtocolError):
        await served.request(
            request.method,
            f"/{provider().slug}{request.path}",
            headers=dict(request.headers),
            data=dict(request.form) if request.form is not None else None,
            json=dict(request.json) if request.json is not None else None,
            auth=request.basic_auth or httpx.USE_CLIENT_DEFAULT,
        )
    assert len(sandbox.world.effects) == 1
    assert (await ask(provider(), operation())).is_success


@needs_provider
async def test_hanging_provider_times_out(served: httpx.AsyncClient, sandbox: Sandbox) -> None:
    await fault(served, mode="hang", latency_ms=500)
    with pytest.raises(httpx.ReadTimeout):
        await served.get(f"/{provider().slug}/anything", timeout=0.1)
    assert sandbox.world.effects == []


@needs_provider
async def test_latency_delays_and_then_answers(client: httpx.AsyncClient, ask: Any) -> None:
    await fault(client, mode="latency", latency_ms=120)
    started = time.monotonic()
    assert (await ask(provider(), operation())).is_success
    assert time.monotonic() - started >= 0.12


@needs_provider
async def test_faults_are_shown_and_unknown_ones_refused(client: httpx.AsyncClient) -> None:
    await fault(client, mode="outage", count=3)
    assert (await client.get("/_control/faults")).json()[provider().slug][0]["mode"] == "outage"
    refused = await fault(client, mode="earthquake")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "mode")
    assert (await client.put("/_control/faults/nosuchprovider", json={"mode": "none"})).status_code == 404


async def test_rate_and_count_hit_a_predictable_share() -> None:
    desk = FaultDesk(lambda: 0.0)
    desk.set("some", Fault(mode="error", rate=0.5, count=2))
    assert [desk.hit("some").mode for _ in range(6)] == ["none", "error", "none", "error", "none", "none"]
    assert desk.hit("other").mode == "none"
    assert desk.current() == {}


@needs_provider
async def test_effects_can_be_filtered(client: httpx.AsyncClient, ask: Any) -> None:
    first = case()
    other = Account("other", dict.fromkeys(first.account.secrets, "other"), first.account.options)
    for account in (first.account, other):
        await ask(provider(), golden(provider(), replace(first, account=account)))
    everything = (await client.get("/_control/effects", params={"provider": provider().slug})).json()["items"]
    assert [one["seq"] for one in everything] == [1, 2]
    one = (await client.get("/_control/effects", params={"account": everything[1]["account"]})).json()["items"]
    assert one == everything[1:]
    assert (await client.get("/_control/effects", params={"provider": "nosuchprovider"})).json()["items"] == []


async def test_a_fault_may_be_one_operations_alone() -> None:
    desk = FaultDesk(lambda: 0.0)
    desk.set("some", Fault(mode="error", operation="payment.charge"))
    desk.add("some", Fault(mode="throttle"))
    assert [desk.hit("some", one).mode for one in ("payment.charge", "payment.refund", "")] == [
        "error",
        "throttle",
        "throttle",
    ]


async def test_a_flapping_provider_is_away_and_back_by_turns() -> None:
    now = [0.0]
    desk = FaultDesk(lambda: now[0])
    desk.set("some", Fault(mode="flap", latency_ms=10_000))
    seen = []
    for second in (1, 9, 11, 19, 21):
        now[0] = float(second)
        seen.append(desk.hit("some").mode)
    assert seen == ["outage", "outage", "none", "none", "outage"]


async def test_several_faults_stand_side_by_side_each_with_its_rate() -> None:
    desk = FaultDesk(lambda: 0.0)
    for mode, rate in (("hang", 0.1), ("throttle", 0.2), ("error", 0.25)):
        desk.add("some", Fault.model_validate({"mode": mode, "rate": rate}))
    seen = [desk.hit("some").mode for _ in range(100)]
    counted = {mode: seen.count(mode) for mode in ("hang", "throttle", "error")}
    # One that was due at the same time as another hits one of the next requests.
    assert all(0 <= wanted - counted[mode] <= 1 for mode, wanted in (("hang", 10), ("throttle", 20), ("error", 25)))
