from __future__ import annotations

import httpx
import pytest

from providers import registry
from sandbox.app import Sandbox

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif("stripe" not in registry.all_slugs(), reason="the provider's folder was deleted"),
]
KEY = {"authorization": "Bearer test-key"}


async def refund(client: httpx.AsyncClient, key: str = "", **form: str) -> httpx.Response:
    headers = KEY | ({"idempotency-key": key} if key else {})
    return await client.post("/stripe/v1/refunds", data=form, headers=headers)


async def test_no_more_than_the_payment_comes_back(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.world.learn_payment("stripe", "pi_1", 4200)
    assert (await refund(client, payment_intent="pi_1", amount="4000")).status_code == 200
    too_much = await refund(client, payment_intent="pi_1", amount="300")
    assert too_much.status_code == 400
    assert (
        too_much.json()["error"]["message"] == "Refund amount (300) is greater than unrefunded amount on charge (200)"
    )
    rest = await refund(client, payment_intent="pi_1")
    assert rest.json()["amount"] == 200
    again = await refund(client, payment_intent="pi_1", amount="1")
    assert (again.status_code, again.json()["error"]["code"]) == (400, "charge_already_refunded")
    assert [one.detail["amount"] for one in sandbox.world.effects] == [4000, 200]


async def test_second_refund_of_an_unheard_of_payment_is_refused(client: httpx.AsyncClient) -> None:
    assert (await refund(client, charge="ch_1", amount="500")).status_code == 200
    assert (await refund(client, charge="ch_1", amount="500")).json()["error"]["code"] == "charge_already_refunded"


async def test_reused_key_is_refused_and_a_repeat_is_marked(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = await refund(client, "key-1", charge="ch_1", amount="500")
    repeat = await refund(client, "key-1", charge="ch_1", amount="500")
    assert repeat.json() == first.json()
    assert repeat.headers["idempotent-replayed"] == "true"
    other = await refund(client, "key-1", charge="ch_1", amount="400")
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    assert len(sandbox.world.effects) == 1


async def test_an_error_is_replayed_too(client: httpx.AsyncClient) -> None:
    await refund(client, charge="ch_1", amount="500")
    refused = await refund(client, "key-2", charge="ch_1", amount="500")
    assert refused.status_code == 400
    assert (await refund(client, "key-2", charge="ch_1", amount="500")).json() == refused.json()


@pytest.mark.parametrize(
    "form",
    [{}, {"charge": "ch_1", "amount": "0"}, {"charge": "ch_1", "amount": "x"}, {"charge": "ch_1", "reason": "because"}],
)
async def test_malformed_refund_is_refused(client: httpx.AsyncClient, form: dict[str, str]) -> None:
    answer = await refund(client, **form)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_list_is_limited_and_newest_first(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    sandbox.world.learn_payment("stripe", "pi_1", 300)
    ids = [(await refund(client, payment_intent="pi_1", amount="100")).json()["id"] for _ in range(3)]
    query = {"payment_intent": "pi_1", "limit": "2"}
    page = (await client.get("/stripe/v1/refunds", params=query, headers=KEY)).json()
    assert [one["id"] for one in page["data"]] == [ids[2], ids[1]]
    assert page["has_more"] is True
