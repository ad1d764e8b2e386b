"""The whole sync worker on a real broker, against a provider on loopback: a delivery in, a refund out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from pydantic import SecretStr

from chassis.http.auth import Role
from chassis.kafka.producer import Publisher
from chassis.testing.harness import read_topic, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import (
    LocalIssuer,
    declared_topics,
    migrated_dsn,
    produce,
    running,
    write_keyring,
)
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.events.orchestrator import RefundPayment
from contracts.events.sync import CallsObserved, CommandAnswered, EndpointConfigured, PaymentChanged, RateLimit
from contracts.topics import (
    GATEWAY_CODES,
    GATEWAY_EVENTS,
    GATEWAY_SILENCES,
    HEALTH_QUOTAS,
    HEALTH_ROUTES,
    ORCHESTRATOR_COMMANDS,
    PLATFORM_AUDIT,
    SYNC_CALLS,
    SYNC_CHANGES,
    SYNC_ENDPOINTS,
    SYNC_QUOTA_USAGE,
    SYNC_RESULTS,
    Lane,
)
from sync_worker.app import create
from sync_worker.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

NOW = datetime(2026, 3, 1, tzinfo=UTC)
READ = (
    *GATEWAY_EVENTS.values(),
    *ORCHESTRATOR_COMMANDS.values(),
    HEALTH_ROUTES,
    HEALTH_QUOTAS,
    GATEWAY_CODES,
    GATEWAY_SILENCES,
)


@dataclass(frozen=True)
class Servers:
    """What a sync worker needs beside its database's migrations."""

    kafka: str
    postgres: PostgresAdmin
    redis: str


@pytest.fixture
def servers(kafka_bootstrap: str, postgres_server: PostgresAdmin, redis_url: str) -> Servers:
    return Servers(kafka_bootstrap, postgres_server, redis_url)


@asynccontextmanager
async def provider(requests: list[str]) -> AsyncIterator[str]:
    """Serve a provider that carries out everything, and note the request lines."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        requests.append(head.splitlines()[0])
        length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        writer.write(b'HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{"id": "re_1"}')
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def delivery(connection: str, external_id: str, *, fingerprint: str = "f1", **snapshot: Any) -> Envelope:
    attributes = DeliveryAttributes(
        delivery=str(uuid4()),
        provider="payer",
        endpoint="ep",
        connection=connection,
        tenant="t1",
        lane="critical",
        event=f"evt-{external_id}",
        eventtype="payment",
        receivedat=NOW,
        verifiedat=NOW,
        keyid="k1",
        bodysha256="",
        entity=f"payment:{external_id}",
        fingerprint=fingerprint,
    )
    body = json.dumps({"external_id": external_id} | snapshot).encode()
    return Envelope(attributes.event, "gateway", DELIVERY_ACCEPTED, body, extensions=attributes.extensions())


async def deliver_twice(bootstrap: str, envelope: Envelope) -> None:
    publisher = Publisher(bootstrap)
    await publisher.start()
    for _ in range(2):
        await publisher.publish(GATEWAY_EVENTS[Lane.CRITICAL], "k", envelope, timeout_s=30)
    await publisher.stop()


async def buried(bootstrap: str, external_id: str) -> set[str]:
    """Return why a payment's deliveries became dead letters."""

    async def letters() -> list[str]:
        seen = await read_topic(bootstrap, GATEWAY_EVENTS[Lane.CRITICAL].dlq)
        return [one.header("x-error-code") for one in seen if one.header("ce_event") == f"evt-{external_id}"]

    return set(await until(letters, "a dead letter"))


def refund(saga: UUID, payment: str, key: str) -> RefundPayment:
    return RefundPayment(saga_id=saga, step="refund", effect_key=key, attempt=1, tenant="t1", payment_id=UUID(payment))


async def test_a_delivery_becomes_a_payment_and_a_command_one_refund(
    servers: Servers, issuer: LocalIssuer, tmp_path: Path, fakes: Any
) -> None:
    assert fakes
    written = (SYNC_CALLS, SYNC_QUOTA_USAGE, SYNC_CHANGES, SYNC_ENDPOINTS, SYNC_RESULTS, PLATFORM_AUDIT)
    await declared_topics(servers.kafka, *written, *READ)
    external_id, requests = uuid4().hex, list[str]()
    async with provider(requests) as provider_url:
        settings = Settings(
            **issuer.settings(),
            kafka_bootstrap=servers.kafka,
            http_port=free_port(),
            database_url=SecretStr(await migrated_dsn(servers.postgres, "sync_worker")),
            keyring=write_keyring(tmp_path),
            redis_url=SecretStr(servers.redis),
            public_gateway_url="https://gateway.test",
            provider_base_url_override=provider_url,
        )
        async with (
            running(create(settings)) as url,
            httpx.AsyncClient(base_url=url, headers=issuer.headers(Role.OPERATOR)) as client,
        ):
            body = {"provider": "payer", "tenant": "t1", "account_ref": external_id}
            secrets = {"webhook": "w", "api_key": "canary-key"}
            connection = (await client.post("/v1/connections", json=body | {"secrets": secrets})).json()["id"]
            await deliver_twice(servers.kafka, delivery(connection, external_id))

            async def known() -> Any:
                return (await client.get("/v1/entities/payments")).json()["items"]

            (payment,) = await until(known, "the payment is known")
            assert (payment["external_id"], payment["version"]) == (external_id, 1)
            # What the gateway's memory would have kept back, had Redis been there.
            await deliver_twice(servers.kafka, delivery(connection, external_id, fingerprint="f2", amount=5, fence=9))
            assert await buried(servers.kafka, external_id) == {"event_conflict"}
            assert (await known()) == [payment], "a conflict has no effect"
            saga = uuid4()
            command = refund(saga, payment["id"], external_id)
            # Twice, as two facts: the inbox does not know that they are the same command.
            await produce(servers.kafka, ORCHESTRATOR_COMMANDS[Lane.CRITICAL], f"{saga}:refund", command, command)

            async def answers() -> list[CommandAnswered]:
                seen = await read_topic(servers.kafka, SYNC_RESULTS.name)
                return [decode(CommandAnswered, one.value or b"") for one in seen if one.key == str(saga).encode()]

            found = await until(answers, "the command is answered")
            assert {(one.status, one.provider_ref) for one in found} == {("applied", "re_1")}
    assert requests == ["POST /payer/effects HTTP/1.1"], "one request, whatever came how often"
    changes = [
        one for one in await read_topic(servers.kafka, SYNC_CHANGES.name) if external_id.encode() in (one.value or b"")
    ]
    assert [decode(PaymentChanged, one.value or b"").version for one in changes] == [1]
    calls = [decode(CallsObserved, one.value or b"") for one in await read_topic(servers.kafka, SYNC_CALLS.name)]
    runs = [run for one in calls for run in one.runs if run.credential == connection]
    assert [(run.operation, run.outcome, run.count) for run in runs] == [("payment.refund", "success", 1)]
    for topic in written:
        assert not any(b"canary" in (one.value or b"") for one in await read_topic(servers.kafka, topic.name))


async def test_a_change_of_configuration_is_on_the_topic_within_a_second(
    servers: Servers, issuer: LocalIssuer, tmp_path: Path, fakes: Any
) -> None:
    assert fakes
    await declared_topics(servers.kafka, SYNC_ENDPOINTS, PLATFORM_AUDIT, SYNC_CALLS, SYNC_CHANGES, SYNC_RESULTS)
    await declared_topics(servers.kafka, SYNC_QUOTA_USAGE)
    await declared_topics(servers.kafka, *READ)
    settings = Settings(
        **issuer.settings(),
        kafka_bootstrap=servers.kafka,
        http_port=free_port(),
        database_url=SecretStr(await migrated_dsn(servers.postgres, "sync_worker")),
        keyring=write_keyring(tmp_path),
        redis_url=SecretStr(servers.redis),
        public_gateway_url="https://gateway.test",
    )
    async with (
        running(create(settings)) as url,
        httpx.AsyncClient(base_url=url, headers=issuer.headers(Role.OPERATOR)) as client,
    ):
        body = {"provider": "payer", "tenant": "t1", "account_ref": "a", "secrets": {"webhook": "w"}}
        endpoint = (await client.post("/v1/connections", json=body)).json()["endpoints"][0]["id"]

        async def published(version: int) -> EndpointConfigured | None:
            seen = await read_topic(servers.kafka, SYNC_ENDPOINTS.name)
            mine = [decode(EndpointConfigured, one.value) for one in seen if one.key == endpoint.encode() and one.value]
            assert [one.version for one in mine] == sorted(one.version for one in mine)
            return mine[-1] if mine and mine[-1].version == version else None

        await until(lambda: published(1), "the endpoint is published")
        await client.post(f"/v1/endpoints/{endpoint}/secrets", json={"value": "w2"})
        rotated = await until(lambda: published(2), "the rotation is published", patience_s=1)
        assert [key.key_id for key in rotated.secrets] == ["k2", "k1"]
        await client.put("/v1/tenants/t1", json={"name": "T", "limits": {"deliveries_per_s": 1, "burst": 1}})
        limited = await until(lambda: published(3), "the tenant's limit is published", patience_s=1)
        assert limited.tenant_rate == RateLimit(per_s=1, burst=1)
