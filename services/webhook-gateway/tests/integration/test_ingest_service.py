"""The ingest role whole, on a real broker and a real socket: an endpoint's record in, signed deliveries to a lane."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from providers import registry

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PROVIDER = next(
    p
    for p in registry.all_providers()
    if p.manifest.webhook
    and p.webhook.event_id[0] == "body:/id"
    and p.webhook.items == "single"
    and p.webhook.formats == ("json",)
    and not p.webhook.handshakes
    and p.traits() is not None
    and p.traits().covers == "body"  # type: ignore[union-attr]
    and not p.traits().fetches  # type: ignore[union-attr]
)


def numbered(sender: Any, number: int) -> bytes:
    return json.dumps(json.loads(sender.fixture.body) | {"id": f"evt_{number}"}).encode()


async def test_a_delivery_goes_from_the_socket_to_its_lane(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        assert (await live.deliver(sender)).status_code == PROVIDER.webhook.success_status
        hook = f"{live.url}/hooks/{sender.endpoint}"
        refused = await live.client.post(hook, content=sender.fixture.body, headers={"authorization": "Bearer canary"})
        assert refused.status_code == PROVIDER.webhook.refused_status
        assert (await live.client.post(f"{live.url}/hooks/nobody", content=b"{}")).status_code == 404
        assert (await live.client.delete(hook)).headers["allow"] == ", ".join(PROVIDER.webhook.accepted_methods)
        assert (await live.client.get(f"{live.url}/live")).status_code == 200
        metrics = (await live.client.get(f"{live.url}/metrics")).text
        assert f'gateway_deliveries_total{{outcome="accepted",provider="{PROVIDER.slug}"}}' in metrics
        await live.remove(sender)
        ((facts, value),) = await live.accepted(sender)
        assert (value, facts.keyid, facts.tenant) == (sender.fixture.body, "k1", "t1")
        reasons = [one.reason for one in await live.rejected(sender)]
        assert "missing_signature" in reasons
        assert "canary" not in str(await live.rejected(sender))


async def test_a_change_of_an_endpoint_is_live_in_under_a_second(gateway: Any) -> None:
    async with gateway() as live:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await live.connect(PROVIDER)
        assert loop.time() - started < 1


async def test_a_redelivery_is_one_record_and_concurrent_ones_are_never_lost(gateway: Any) -> None:
    async with gateway() as live:
        sender = await live.connect(PROVIDER)
        for _ in range(3):
            assert (await live.deliver(sender)).is_success
        assert len(await live.accepted(sender)) == 1
        replies = await asyncio.gather(
            *(live.deliver(sender, sender.signed(numbered(sender, n % 10))) for n in range(200))
        )
        assert all(reply.is_success for reply in replies)
        events = [facts.event for facts, _ in await live.accepted(sender)]
        assert {f"evt_{n}" for n in range(10)} <= set(events)
        assert len(events) < 200


async def test_a_large_body_goes_by_reference_and_a_larger_one_is_413(gateway: Any) -> None:
    async with gateway(inline_body_bytes=100_000, max_body_bytes=1_000_000) as live:
        sender = await live.connect(PROVIDER)
        body = json.dumps(json.loads(sender.fixture.body) | {"padding": "x" * 500_000}).encode()
        assert (await live.deliver(sender, sender.signed(body))).is_success
        ((facts, value),) = await live.accepted(sender)
        assert (value, len(facts.claim)) == (b"", 64)
        too_large = await live.client.post(f"{live.url}/hooks/{sender.endpoint}", content=b"x" * 1_000_001)
        assert (too_large.status_code, too_large.json()["code"]) == (413, "body_too_large")
