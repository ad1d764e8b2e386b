"""The ingest role whole, on a real broker and a real socket: an endpoint's record in, signed deliveries to a lane."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chassis.claims import event_bytes
from chassis.claims.bucket import Bucket, BucketClaims
from chassis.claims.directory import DirectoryClaims
from chassis.testing.s3 import private_s3
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


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """Give a bucket of a server that speaks S3."""
    with private_s3() as url:
        httpx.put(f"{url}/claims-of-a-test").raise_for_status()
        yield Bucket("claims-of-a-test", "us-east-1", "key", "canary-secret", endpoint=url, allow_http=True)


async def test_a_large_body_goes_to_a_bucket_and_without_it_is_503(gateway: Any, bucket: Bucket) -> None:
    settings = {
        "claim_store": "s3",
        "claim_s3_bucket": bucket.name,
        "claim_s3_endpoint": bucket.endpoint,
        "claim_s3_access_key": bucket.access_key,
        "claim_s3_secret_key": bucket.secret_key,
        "claim_s3_allow_http": True,
    }
    async with gateway(inline_body_bytes=100_000, **settings) as live:
        sender = await live.connect(PROVIDER)
        body = json.dumps(json.loads(sender.fixture.body) | {"padding": "x" * 500_000}).encode()
        assert (await live.deliver(sender, sender.signed(body))).is_success
        ((facts, _),) = await live.accepted(sender)
        store = BucketClaims(bucket, timeout_s=5)
        assert await store.get(facts.claim) == body
        assert await store.sweep(-60) == 1
        (await live.client.delete(f"{bucket.endpoint}/{bucket.name}")).raise_for_status()
        other = json.dumps(json.loads(body) | {"id": "evt_other"}).encode()
        refused = await live.deliver(sender, sender.signed(other))
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert (await live.deliver(sender, sender.signed(numbered(sender, 1)))).is_success, "small ones go on"


BATCHED = next(
    p
    for p in registry.all_providers()
    if p.manifest.webhook and p.webhook.items == "array" and p.webhook.pointers == ("",) and not p.webhook.handshakes
)


async def test_a_large_event_of_a_batch_is_not_refused_for_ever(gateway: Any, tmp_path: Path) -> None:
    """It fits into no record, and its sender would come back with it until it gave up."""
    async with gateway() as live:
        sender = await live.connect(BATCHED)
        items = [item | {"padding": "x" * 1_500_000} for item in json.loads(sender.fixture.body)][:2]
        assert (await live.deliver(sender, sender.signed(json.dumps(items).encode()))).is_success
        claims = DirectoryClaims(tmp_path / "claims")
        read = [(facts.item, await event_bytes(claims, facts, value)) for facts, value in await live.accepted(sender)]
        assert [json.loads(data) for _, data in sorted(read)] == items
        assert len(items) > 1
