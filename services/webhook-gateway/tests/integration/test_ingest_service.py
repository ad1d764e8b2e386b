"""The ingest role whole, on a real broker and a real socket: an endpoint's record in, signed deliveries to a lane."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from chassis.kafka.producer import Publisher
from chassis.sealing import Keyring
from chassis.testing.harness import read_topic, until
from chassis.testing.ports import free_port
from chassis.testing.service_kit import LocalIssuer, declared_topics, produce, running, write_keyring
from contracts.codec import decode
from contracts.envelope import from_record
from contracts.events.gateway import DeliveryAttributes, DeliveryRejected
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.topics import GATEWAY_EVENTS, GATEWAY_REJECTIONS, SYNC_ENDPOINTS
from providers import registry
from webhook_gateway.app import create
from webhook_gateway.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

PROVIDER = next(p for p in registry.all_providers() if p.manifest.webhook and p.webhook.items == "single")


async def tombstone(bootstrap: str, key: str) -> None:
    publisher = Publisher(bootstrap)
    await publisher.start()
    await publisher.send(SYNC_ENDPOINTS.name, key.encode(), None, [], timeout_s=10)
    await publisher.stop()


async def chunks() -> AsyncIterator[bytes]:
    """Give 2 MiB without saying so first."""
    for _ in range(2048):
        yield b"x" * 1024


def configured(keyring: Path, endpoint: str, url: str, secret: str) -> EndpointConfigured:
    sealed = Keyring.load(keyring).seal(secret, endpoint_secret_place("t1", endpoint, "k1"))
    return EndpointConfigured(
        endpoint=endpoint,
        connection=uuid.uuid4(),
        provider=PROVIDER.slug,
        tenant="t1",
        url=url,
        secrets=(SealedSecret(key_id="k1", sealed=base64.b64encode(sealed).decode()),),
        version=1,
    )


async def test_a_delivery_goes_from_the_socket_to_its_lane(
    kafka_bootstrap: str, issuer: LocalIssuer, tmp_path: Path
) -> None:
    await declared_topics(kafka_bootstrap, *GATEWAY_EVENTS.values(), GATEWAY_REJECTIONS, SYNC_ENDPOINTS)
    keyring = write_keyring(tmp_path)
    endpoint, pair = f"ep-{uuid.uuid4().hex}", PROVIDER.verifier().generate()
    registered = f"https://hooks.example.com/hooks/{endpoint}"
    await produce(kafka_bootstrap, SYNC_ENDPOINTS, endpoint, configured(keyring, endpoint, registered, pair.verifying))
    settings = Settings(
        **issuer.settings(), kafka_bootstrap=kafka_bootstrap, http_port=free_port(), role="ingest", keyring=keyring
    )
    fixture = PROVIDER.fixtures()[0]

    def signed(body: bytes) -> dict[str, str]:
        signature = PROVIDER.verifier().sign(
            body,
            url=registered,
            secret=pair.signing,
            now=datetime.now(UTC),
            content_type=fixture.content_type,
            message_id="msg_1",
        )
        return {**fixture.headers, **signature}

    async with running(create(settings)) as url, httpx.AsyncClient() as client:
        hook = f"{url}/hooks/{endpoint}"
        answer = await client.post(hook, content=fixture.body, headers=signed(fixture.body))
        assert answer.status_code == PROVIDER.webhook.success_status
        refused = await client.post(hook, content=fixture.body, headers={"authorization": "Bearer canary"})
        assert refused.status_code == PROVIDER.webhook.refused_status

        assert (await client.post(hook, content=chunks())).status_code == 413
        assert (await client.post(f"{url}/hooks/nobody", content=b"{}")).status_code == 404
        assert (await client.delete(hook)).headers["allow"] == ", ".join(PROVIDER.webhook.methods)
        assert (await client.get(f"{url}/live")).status_code == 200
        metrics = (await client.get(f"{url}/metrics")).text
        assert f'gateway_deliveries_total{{outcome="accepted",provider="{PROVIDER.slug}"}}' in metrics

        # The endpoint goes away while the gateway runs.
        await tombstone(kafka_bootstrap, endpoint)

        async def gone() -> bool:
            return (await client.post(hook, content=b"{}")).status_code == 404

        await until(gone, "the removed endpoint answers 404")

    lanes = [r for topic in GATEWAY_EVENTS.values() for r in await read_topic(kafka_bootstrap, topic.name)]
    (record,) = [r for r in lanes if DeliveryAttributes.of(from_record(r.value, r.headers)).endpoint == endpoint]
    facts = DeliveryAttributes.of(from_record(record.value, record.headers))
    assert (record.value, facts.keyid, facts.tenant) == (fixture.body, "k1", "t1")
    assert record.header("traceparent").startswith("00-")
    rejections = [r for r in await read_topic(kafka_bootstrap, GATEWAY_REJECTIONS.name) if r.key == endpoint.encode()]
    reasons = {decode(DeliveryRejected, r.value or b"").reason for r in rejections}
    assert reasons >= {"missing_signature", "body_too_large", "method_not_allowed"}
    assert not any(b"canary" in (r.value or b"") for r in rejections)
