"""The ledger as a process: real Kafka, real PostgreSQL, its HTTP port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from chassis.clock import SystemClock
from chassis.http.auth import Role
from chassis.kafka.producer import Publisher
from chassis.testing.harness import read_topic, until
from chassis.testing.ports import free_port
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, produce, running
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, GATEWAY_QUARANTINE, PLATFORM_AUDIT, SYNC_ENDPOINTS, TOPICS, Lane
from webhook_gateway.app import create
from webhook_gateway.settings import Settings

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

STANDARD = GATEWAY_EVENTS[Lane.STANDARD]


@asynccontextmanager
async def ledger_process(dsn: str, bootstrap: str, issuer: LocalIssuer) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(
        **issuer.settings(),
        role="ledger",
        database_url=dsn,
        kafka_bootstrap=bootstrap,
        http_port=free_port(),
    )
    async with running(create(settings)) as url:
        headers = issuer.headers(Role.OPERATOR)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as client:
            yield client


async def publish(bootstrap: str, topic: Any, *messages: Any) -> None:
    publisher = Publisher(bootstrap)
    await publisher.start()
    try:
        for message in messages:
            await publisher.publish(topic, message.text_key, message.envelope, timeout_s=30)
    finally:
        await publisher.stop()


async def test_deliveries_come_in_are_replayed_and_a_pause_ends(
    postgres_server: PostgresAdmin, kafka_bootstrap: str, issuer: LocalIssuer, make: Any
) -> None:
    await declared_topics(kafka_bootstrap, *TOPICS)
    dsn = await migrated_dsn(postgres_server, "webhook_gateway")
    now, endpoint = SystemClock().now(), f"ep-{uuid7()}"
    facts = {"endpoint": endpoint, "at": now, "verifiedat": now, "entity": "payment:p1"}
    paused = make.endpoint(endpoint, state="paused")
    await produce(kafka_bootstrap, SYNC_ENDPOINTS, endpoint, paused)
    lane = [make.accepted(f"e{i}", **facts) for i in range(3)]
    held = [make.accepted(f"h{i}", quarantine="paused", **facts) for i in range(3)]
    async with ledger_process(dsn, kafka_bootstrap, issuer) as client:
        await asyncio.gather(
            publish(kafka_bootstrap, STANDARD, *lane), publish(kafka_bootstrap, GATEWAY_QUARANTINE, *held)
        )

        async def stored(**query: str) -> list[dict[str, Any]]:
            answer = await client.get("/v1/deliveries", params={"endpoint": endpoint} | query)
            assert answer.status_code == 200, answer.text
            items: list[dict[str, Any]] = answer.json()["items"]
            return items

        async def all_six() -> bool:
            return len(await stored()) == 6

        await until(all_six, "all deliveries are stored")
        assert {one["outcome"] for one in await stored(event="h0")} == {"held"}
        asked = {"query": {"endpoint": endpoint, "event": "e1"}, "reason": "a test"}
        job = (await client.post("/v1/replays", json=asked)).json()["id"]
        await produce(kafka_bootstrap, SYNC_ENDPOINTS, endpoint, make.endpoint(endpoint, version=2))

        async def released() -> bool:
            return {one["outcome"] for one in await stored()} == {"accepted"}

        await until(released, "the held deliveries are in their lane")

        async def done() -> bool:
            return bool((await client.get(f"/v1/replays/{job}")).json()["state"] == "done")

        await until(done, "the replay ends")
        exported = (await client.get("/v1/deliveries/export", params={"endpoint": endpoint})).text.splitlines()
        assert [json.loads(line)["body"] for line in exported] == [{"id": 1}] * 6
        metrics = (await client.get("/metrics")).text
        assert "ledger_issues_open" in metrics
        assert "ledger_deliveries_total" in metrics

    written = await read_topic(kafka_bootstrap, STANDARD.name)
    mine = [one for one in written if one.header("ce_endpoint") == endpoint]
    assert len({one.partition for one in mine}) == 1
    ids = [one.header("ce_id") for one in mine]
    assert ids[:3] == ["e0", "e1", "e2"]
    assert sorted(ids[3:]) == ["e1", "h0", "h1", "h2"]
    assert [one for one in ids if one.startswith("h")] == ["h0", "h1", "h2"]
    again = mine[3 + ids[3:].index("e1")]
    assert (again.header("ce_origin"), again.header("ce_replay")) == ("replay", job)
    audit = [one.value for one in await read_topic(kafka_bootstrap, PLATFORM_AUDIT.name)]
    assert [one for one in audit if one and b"quarantine.released" in one and endpoint.encode() in one]


async def test_a_replay_survives_the_end_of_its_process(
    postgres_server: PostgresAdmin, kafka_bootstrap: str, issuer: LocalIssuer, make: Any
) -> None:
    await declared_topics(kafka_bootstrap, *TOPICS)
    dsn = await migrated_dsn(postgres_server, "webhook_gateway")
    now, endpoint = SystemClock().now(), f"ep-{uuid7()}"
    deliveries = [make.accepted(f"e{i:03}", endpoint=endpoint, at=now, verifiedat=now) for i in range(60)]
    async with ledger_process(dsn, kafka_bootstrap, issuer) as client:
        await publish(kafka_bootstrap, STANDARD, *deliveries)

        async def stored() -> bool:
            found = await client.get("/v1/deliveries", params={"endpoint": endpoint, "limit": 200})
            return len(found.json()["items"]) == len(deliveries)

        await until(stored, "all deliveries are stored")
        asked = {"endpoint": endpoint, "rate_per_s": 60, "reason": "a test"}
        job = (await client.post("/v1/replays", json=asked)).json()["id"]

        async def some() -> bool:
            return int((await client.get(f"/v1/replays/{job}")).json()["done"]) > 5

        await until(some, "the replay is under way")
    async with ledger_process(dsn, kafka_bootstrap, issuer) as client:

        async def done() -> bool:
            return bool((await client.get(f"/v1/replays/{job}")).json()["state"] == "done")

        await until(done, "the replay goes on and ends")

    async def relayed() -> bool:
        written = await read_topic(kafka_bootstrap, STANDARD.name)
        ids = [one.header("ce_id") for one in written if dict(one.headers).get("ce_replay") == job.encode()]
        # At least once, in order: a repeat may only follow its original.
        return list(dict.fromkeys(ids)) == [f"e{i:03}" for i in range(60)]

    await until(relayed, "every delivery was written again, in order")
