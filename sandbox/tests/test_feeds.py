"""The sandbox's logs of events: what was sent and what was lost on the way, by the vendor's own paging."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest

from chassis.clock import SystemClock
from providers import feeds, registry
from providers.feeds import Window
from providers.sdk import Account, HttpResponse
from sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio

ACCOUNTS = {
    "stripe": Account("acct", {"api_key": "test-api-key"}),
    "square": Account("acct", {"access_token": "test-access-token"}),
    "paypal": Account("acct", {"access_token": "test-access-token"}),
}
ORDERS: dict[str, dict[str, Any]] = {
    "stripe": {"secret": "whsec_fake_test_value", "fixture": "payment_intent.succeeded"},
    "square": {"secret": "fake-signature-key", "fixture": "payment.created"},
}


async def order(client: httpx.AsyncClient, slug: str, receiver: Any, **changes: Any) -> dict[str, Any]:
    body = {"provider": slug, "url": receiver.url} | ORDERS[slug] | changes
    answer = await client.post("/_control/deliveries", json=body)
    assert answer.status_code == 201, answer.text
    (sent,) = answer.json()["items"]
    return dict(sent)


async def read(client: httpx.AsyncClient, slug: str, page_size: int) -> list[str]:
    """Return the ids of all events of the last minute, read page by page."""
    provider, account, now = registry.get(slug), ACCOUNTS[slug], SystemClock().now()
    feed = provider.manifest.feeds[0].model_copy(update={"page_size": page_size})
    window = Window(now - timedelta(minutes=1), now + timedelta(seconds=1))
    found: list[str] = []
    page = ""
    while True:
        request = provider.authorise(feeds.page_request(feed, account, window, page), account, now)
        sent = {"params": dict(request.query), "headers": dict(request.headers), "json": request.json}
        answer = await client.request(request.method, f"/{slug}{request.path}", **sent)
        assert answer.status_code == 200, answer.text
        read_page = feeds.parse_page(provider, feed, account, HttpResponse(200, {}, answer.json()))
        found += [item.event_id for one in read_page.deliveries for item in provider.split(one)]
        page = read_page.next
        if not page:
            return found


@pytest.mark.parametrize("slug", sorted(ORDERS))
async def test_a_lost_webhook_stands_in_the_log_and_is_not_sent(
    slug: str, client: httpx.AsyncClient, receiver: Any
) -> None:
    for number in range(5):
        sent = await order(client, slug, receiver, fresh=f"n{number}", lost=number in (1, 3))
        assert sent["state"] == ("lost" if number in (1, 3) else "delivered")
    assert len(receiver.got) == 3
    arrived = {item.event_id for one in receiver.got for item in registry.get(slug).split(one)}
    for page_size in (2, 5, 100):
        found = await read(client, slug, page_size)
        assert (len(found), len(set(found))) == (5, 5)
        assert arrived < set(found)


async def test_copies_are_one_event_and_a_spoilt_delivery_is_none(client: httpx.AsyncClient, receiver: Any) -> None:
    answer = await client.post(
        "/_control/deliveries", json={"provider": "stripe", "url": receiver.url, "copies": 3} | ORDERS["stripe"]
    )
    assert len(answer.json()["items"]) == 3
    await order(client, "stripe", receiver, fresh="x", tamper="signature")
    assert len(await read(client, "stripe", 100)) == 1


async def test_an_unknown_page_and_a_missing_credential_are_refused(
    client: httpx.AsyncClient, sandbox: Sandbox
) -> None:
    assert sandbox.world.events == []
    query = {"created[gte]": "0", "starting_after": "evt_unknown"}
    refused = await client.get("/stripe/v1/events", params=query, headers={"authorization": "Bearer test-api-key"})
    assert refused.status_code == 400
    assert (await client.get("/stripe/v1/events", params=query)).status_code == 401


@pytest.mark.parametrize(
    ("slug", "account", "parameters"),
    [
        (
            "shopify",
            Account("acct", {"access_token": "test-access-token"}, options={"shop": "shop", "currency": "EUR"}),
            {"topic": "ORDERS_UPDATED"},
        ),
        ("github", Account("acct", {"token": "test-token"}), {"owner": "octocat", "repository": "hello-world"}),
    ],
)
async def test_a_webhook_is_registered_and_ended_also_where_all_requests_have_one_path(
    slug: str, account: Account, parameters: dict[str, str], client: httpx.AsyncClient
) -> None:
    provider, now = registry.get(slug), SystemClock().now()
    (spec,) = provider.manifest.subscriptions
    values: dict[str, Any] = {"url": "https://hooks.test/ep", "secret": "s", "parameter": parameters}

    async def send(request: Any) -> httpx.Response:
        asked = provider.authorise(request, account, now)
        return await client.request(asked.method, f"/{slug}{asked.path}", headers=dict(asked.headers), json=asked.json)

    made = await send(feeds.create_request(spec, account, values))
    found = feeds.parse_registration(spec, HttpResponse(made.status_code, {}, made.json()), "")
    assert found.url == "https://hooks.test/ep"
    ending = feeds.delete_request(spec, account, values | {"ext_id": found.ext_id})
    assert (await send(ending)).is_success
    assert not (await send(ending)).is_success, "it is gone"
