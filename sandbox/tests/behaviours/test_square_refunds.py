from __future__ import annotations

from typing import Any

import httpx
import pytest

from providers import registry
from sandbox.app import Sandbox

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif("square" not in registry.all_slugs(), reason="the provider's folder was deleted"),
]
KEY = {"authorization": "Bearer test-token"}


def body(**changes: Any) -> dict[str, Any]:
    money = {"amount": 500, "currency": "USD"}
    return {"idempotency_key": "key-1", "payment_id": "pay-1", "amount_money": money, "reason": "test"} | changes


async def test_key_decides_not_the_number_of_requests(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first, second = [await client.post("/square/v2/refunds", json=body(), headers=KEY) for _ in range(2)]
    assert first.json() == second.json()
    reused = await client.post("/square/v2/refunds", json=body(reason="other"), headers=KEY)
    assert reused.json()["errors"][0]["code"] == "IDEMPOTENCY_KEY_REUSED"
    assert len(sandbox.world.effects) == 1
    shown = await client.get(f"/square/v2/refunds/{first.json()['refund']['id']}", headers=KEY)
    assert shown.json() == first.json()


async def test_more_than_the_payment_is_refused(client: httpx.AsyncClient) -> None:
    await client.post("/square/v2/refunds", json=body(), headers=KEY)
    answer = await client.post("/square/v2/refunds", json=body(idempotency_key="key-2"), headers=KEY)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "REFUND_AMOUNT_INVALID")


@pytest.mark.parametrize("missing", ["idempotency_key", "payment_id", "amount_money"])
async def test_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    answer = await client.post("/square/v2/refunds", json=body(**{missing: None}), headers=KEY)
    assert (answer.status_code, answer.json()["errors"][0]["detail"]) == (400, missing)


async def test_body_that_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/square/v2/refunds", content=b"{", headers=KEY)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "BAD_REQUEST")
