"""One real event through all services, and what each of them says to bad input; on the stack that `make up` starts."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import Any

import asyncpg
import httpx
import pytest

from chassis.testing.harness import read_topic, until
from contracts.topics import ORCHESTRATOR_SAGA_EVENTS, SYNC_CHANGES
from providers import registry
from tests.conftest import Platform

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

SLUG = "stripe"
SECRET = "whsec_end_to_end_secret"
needs_provider = pytest.mark.skipif(SLUG not in registry.all_slugs(), reason="the provider's folder was deleted")


def connect(platform: Platform, tenant: str) -> dict[str, Any]:
    answer = platform.api.post(
        f"{platform.env['SYNC_URL']}/v1/connections",
        json={
            "provider": SLUG,
            "tenant": tenant,
            "account_ref": "acct_e2e",
            "secrets": {"webhook": SECRET, "api_key": "sk_test_e2e"},
        },
    )
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def fixture_event(name: str, payment: str) -> bytes:
    document = next(one for one in registry.get(SLUG).fixtures() if one.name == name)
    event = json.loads(document.body.decode().replace("pi_3PatchbayDemo0001", payment))
    event["id"] = f"evt_{uuid.uuid4().hex}"
    return json.dumps(event).encode()


async def deliver(url: str, body: bytes) -> httpx.Response:
    """Send an event signed by the vendor's own helper, again until the gateway has heard of the endpoint."""
    stripe = pytest.importorskip("stripe", reason="the vendor's package is a test extra")

    async def sent() -> httpx.Response | None:
        stamp = int(time.time())
        signature = stripe.WebhookSignature._compute_signature(f"{stamp}.{body.decode()}", SECRET)
        headers = {"stripe-signature": f"t={stamp},v1={signature}", "content-type": "application/json"}
        async with httpx.AsyncClient() as client:
            answer = await client.post(url, content=body, headers=headers)
        return None if answer.status_code == 404 else answer

    answer: httpx.Response = await until(sent, "the endpoint in the gateway's memory")
    return answer


def get(platform: Platform, service: str, path: str) -> dict[str, Any]:
    answer = platform.api.get(platform.env[service] + path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@needs_provider
async def test_a_signed_event_becomes_facts_in_every_service_and_one_trace(platform: Platform) -> None:
    tenant, payment = f"e2e-{uuid.uuid4().hex[:8]}", f"pi_{uuid.uuid4().hex}"
    url = connect(platform, tenant)["endpoints"][0]["url"]
    body = fixture_event("charge.succeeded", payment)
    assert (await deliver(url, body)).status_code == 200

    async def in_ledger() -> Any:
        return get(platform, "LEDGER_URL", f"/v1/deliveries?tenant={tenant}")["items"]

    [delivery] = await until(in_ledger, "the delivery in the ledger")
    assert (delivery["outcome"], delivery["entity"]) == ("accepted", f"payment:{payment}")
    shown = get(platform, "LEDGER_URL", f"/v1/deliveries/{delivery['id']}")
    assert shown["items"][0]["body"] == json.loads(body)

    async def as_payment() -> Any:
        return get(platform, "SYNC_URL", f"/v1/entities/payments?tenant={tenant}")["items"]

    [canonical] = await until(as_payment, "the canonical payment")
    assert (canonical["external_id"], canonical["status"], canonical["amount"]) == (payment, "succeeded", 4200)

    async def changed() -> Any:
        seen = await read_topic(platform.env["KAFKA_BOOTSTRAP"], SYNC_CHANGES.name)
        return [one for one in seen if one.header("ce_tenant") == tenant]

    [change] = await until(changed, "the change event")
    trace_id = delivery["trace_id"]
    assert change.header("traceparent").split("-")[1] == trace_id

    async def traced() -> bool:
        files = (platform.stack.run_dir / "traces").glob("*.jsonl")
        spans = [json.loads(line) for file in files for line in file.read_text().splitlines() if trace_id in line]
        return {"webhook-gateway", "webhook-gateway-ledger", "sync-worker", "orchestrator"} <= {
            span["service"] for span in spans
        }

    await until(traced, "spans of four processes in one trace")


@needs_provider
async def test_a_dispute_starts_one_saga(platform: Platform) -> None:
    tenant, payment = f"e2e-{uuid.uuid4().hex[:8]}", f"pi_{uuid.uuid4().hex}"
    url = connect(platform, tenant)["endpoints"][0]["url"]
    await deliver(url, fixture_event("charge.succeeded", payment))
    dispute = fixture_event("charge.dispute.created", payment)
    assert (await deliver(url, dispute)).status_code == 200
    assert (await deliver(url, dispute)).status_code == 200

    async def started() -> Any:
        return get(platform, "ORCHESTRATOR_URL", f"/v1/sagas?tenant={tenant}")["items"]

    [saga] = await until(started, "a saga")

    async def refunded() -> bool:
        timeline = get(platform, "ORCHESTRATOR_URL", f"/v1/sagas/{saga['id']}")["timeline"]
        return any((entry["entry"], entry["step"]) == ("step_done", "refund") for entry in timeline)

    await until(refunded, "the refund")
    events = [
        one
        for one in await read_topic(platform.env["KAFKA_BOOTSTRAP"], ORCHESTRATOR_SAGA_EVENTS.name)
        if one.key == saga["id"].encode()
    ]
    assert json.loads(events[0].value or b"{}")["entry"] == "started"
    assert len(get(platform, "ORCHESTRATOR_URL", f"/v1/sagas?tenant={tenant}")["items"]) == 1


@needs_provider
async def test_a_gateway_without_a_broker_says_try_again_within_two_seconds(platform: Platform) -> None:
    url = connect(platform, f"e2e-{uuid.uuid4().hex[:8]}")["endpoints"][0]["url"]
    payment = f"pi_{uuid.uuid4().hex}"
    assert (await deliver(url, fixture_event("charge.succeeded", payment))).status_code == 200
    platform.stack.kafka.kill()
    try:
        started = time.monotonic()
        answer = await deliver(url, fixture_event("charge.succeeded", payment))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["code"] == "unavailable"
        assert time.monotonic() - started < 2.5
    finally:
        await asyncio.to_thread(platform.stack.kafka.start)

    async def back() -> bool:
        return (await deliver(url, fixture_event("charge.succeeded", payment))).status_code == 200

    await until(back, "the gateway back at work", 60)


async def test_no_service_can_open_anothers_database(platform: Platform) -> None:
    owners = ("ledger", "sync-worker", "health-monitor", "verification", "orchestrator")
    urls = {name: platform.stack.database_url(name) for name in owners}
    for name, url in urls.items():
        for other, other_url in urls.items():
            target = url.rsplit("/", 1)[0] + "/" + other_url.rsplit("/", 1)[1]
            if name == other:
                await (await asyncpg.connect(target)).close()
                continue
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await asyncpg.connect(target)
