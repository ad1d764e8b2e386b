"""Webhooks that the sandbox sends, verified by the same code that the gateway uses."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from providers import registry
from providers.manifest import Retries
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyPair, Refused, Secret
from sandbox.app import Sandbox
from sandbox.deliveries import waits_s
from sandbox.settings import Settings
from sandbox.signing import window_s
from sandbox.variants import fresh_ids, items_of, snapshots_of

pytestmark = pytest.mark.asyncio

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
STAMPED = [provider for provider in SENDERS if window_s(provider) is not None]
every_sender = pytest.mark.parametrize("provider", SENDERS, ids=lambda provider: provider.slug)


def order(provider: Provider, keys: KeyPair, url: str, **more: Any) -> dict[str, Any]:
    fixture = provider.fixtures()[0].name
    return {"provider": provider.slug, "url": url, "secret": keys.signing, "fixture": fixture} | more


def verify(provider: Provider, keys: KeyPair, request: InboundRequest) -> str:
    return provider.verifier().verify(request, [Secret("k", keys.verifying)], datetime.now(UTC)).key_id


async def send(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post("/_control/deliveries", json=body)
    assert answer.status_code == 201, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


@every_sender
async def test_fixture_arrives_signed(client: httpx.AsyncClient, receiver: Any, provider: Provider) -> None:
    keys = provider.verifier().generate()
    (delivery,) = await send(client, order(provider, keys, receiver.url))
    (got,) = receiver.got
    assert verify(provider, keys, got) == "k"
    assert got.body == provider.fixtures()[0].body
    assert provider.split(got)
    assert delivery["state"] == "delivered"
    assert [one["status"] for one in delivery["attempts"]] == [200]
    assert delivery["attempts"][0]["latency_ms"] > 0


@every_sender
@pytest.mark.parametrize("tamper", ["body", "signature"])
async def test_spoilt_delivery_does_not_verify(
    client: httpx.AsyncClient, receiver: Any, provider: Provider, tamper: str
) -> None:
    keys = provider.verifier().generate()
    await send(client, order(provider, keys, receiver.url, tamper=tamper))
    with pytest.raises(Refused) as refused:
        verify(provider, keys, receiver.got[0])
    assert refused.value.reason == "bad_signature"


@every_sender
@pytest.mark.parametrize(("tamper", "reason"), [("stale", "stale_timestamp"), ("future", "future_timestamp")])
async def test_time_can_be_wrong_where_it_is_signed(
    client: httpx.AsyncClient, receiver: Any, provider: Provider, tamper: str, reason: str
) -> None:
    keys = provider.verifier().generate()
    if provider not in STAMPED:
        answer = await client.post("/_control/deliveries", json=order(provider, keys, receiver.url, tamper=tamper))
        assert (answer.status_code, answer.json()["code"]) == (422, "signs_no_time")
        return
    await send(client, order(provider, keys, receiver.url, tamper=tamper))
    with pytest.raises(Refused) as refused:
        verify(provider, keys, receiver.got[0])
    assert refused.value.reason == reason


@every_sender
async def test_fresh_ids_rename_events_and_entities(
    provider: Provider, client: httpx.AsyncClient, receiver: Any
) -> None:
    fixture = provider.fixtures()[0]
    before = items_of(provider, fixture)
    keys = provider.verifier().generate()
    changes = fresh_ids(provider, fixture, "-x1")
    body = order(provider, keys, receiver.url, changes=changes, message_id="msg_fresh")
    await send(client, body)
    after = provider.split(receiver.got[0])
    assert len(after) == len(before)
    assert {one.event_type for one in after} == {one.event_type for one in before}
    renamed = set(changes.values())
    for old, new in zip(before, after, strict=True):
        if old.entity is not None:
            # An id that is a number in the payload has no text to rename.
            fresh = f"{old.entity[1]}-x1"
            assert new.entity == (old.entity[0], fresh if fresh in renamed else old.entity[1])
        if f"{old.event_id}-x1" in renamed:
            assert new.event_id == f"{old.event_id}-x1"


async def test_copies_are_sent_one_after_the_other(client: httpx.AsyncClient, receiver: Any) -> None:
    keys = SENDERS[0].verifier().generate()
    deliveries = await send(client, order(SENDERS[0], keys, receiver.url, copies=3))
    assert len(receiver.got) == 3
    assert len({one["id"] for one in deliveries}) == 3
    listed = (await client.get("/_control/deliveries", params={"provider": SENDERS[0].slug})).json()["items"]
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(deliveries)]
    shown = await client.get(f"/_control/deliveries/{deliveries[0]['id']}")
    assert shown.json() == deliveries[0]


async def test_refused_delivery_is_repeated_until_it_is_taken(client: httpx.AsyncClient, receiver: Any) -> None:
    repeating = next(provider for provider in SENDERS if waits_s(provider.webhook.retries))
    keys = repeating.verifier().generate()
    receiver.answers = [503, 302]
    (first,) = await send(client, order(repeating, keys, receiver.url, retry=True, time_factor=0))
    assert first["state"] == "retrying"
    deadline = time.monotonic() + 10
    shown = first
    while shown["state"] == "retrying" and time.monotonic() < deadline:
        await asyncio.sleep(0)
        shown = (await client.get(f"/_control/deliveries/{first['id']}")).json()
    assert shown["state"] == "delivered"
    assert [one["status"] for one in shown["attempts"]] == [503, 302, 200]
    assert {verify(repeating, keys, request) for request in receiver.got} == {"k"}


async def test_without_retry_a_refusal_is_final(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [401]
    (delivery,) = await send(client, order(SENDERS[0], SENDERS[0].verifier().generate(), receiver.url))
    assert delivery["state"] == "failed"
    assert len(receiver.got) == 1


async def test_receiver_that_is_away_is_an_attempt_without_a_status(client: httpx.AsyncClient) -> None:
    keys = SENDERS[0].verifier().generate()
    (delivery,) = await send(client, order(SENDERS[0], keys, "http://127.0.0.1:1/hooks/ep"))
    (attempt,) = delivery["attempts"]
    assert (attempt["status"], attempt["error"]) == (None, "ConnectError")


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        (None, []),
        (Retries(schedule_s=(), horizon_h=0), []),
        (Retries(schedule_s=(0, 5), horizon_h=1), [0, 5]),
        (Retries(horizon_h=0.2), [60, 120, 240]),
    ],
)
async def test_waits_follow_the_manifest(retries: Retries | None, expected: list[float]) -> None:
    assert waits_s(retries) == expected


@pytest.mark.parametrize(
    "url",
    ["http://example.com/hooks/ep", "http://10.0.0.1/x", "http://127.0.0.1.example.com/x", "http://[::ffff:0a00:1]/"],
)
async def test_only_loopback_is_a_target(client: httpx.AsyncClient, url: str) -> None:
    answer = await client.post("/_control/deliveries", json=order(SENDERS[0], KeyPair("whsec_x", "whsec_x"), url))
    assert (answer.status_code, answer.json()["code"]) == (422, "target_not_allowed")


async def test_another_host_is_allowed_by_name_only() -> None:
    assert Settings(sandbox_allow_hosts="gateway, Other").allowed_hosts == {"gateway", "other"}
    assert Settings().allowed_hosts == frozenset()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"provider": "nosuchprovider"}, "unknown_provider"),
        ({"fixture": "nosuchfixture"}, "unknown_fixture"),
        ({"body": "{}"}, "fixture_or_body"),
        ({"changes": {"/no/such/place/here": "x"}}, "bad_change"),
        ({"copies": 0}, "invalid_request"),
        ({"surprise": 1}, "invalid_request"),
    ],
)
async def test_bad_order_is_refused(
    client: httpx.AsyncClient, receiver: Any, changes: dict[str, Any], code: str
) -> None:
    keys = SENDERS[0].verifier().generate()
    answer = await client.post("/_control/deliveries", json=order(SENDERS[0], keys, receiver.url) | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert keys.signing not in answer.text
    assert receiver.got == []


async def test_payments_in_webhooks_become_known_to_the_api(
    client: httpx.AsyncClient, receiver: Any, sandbox: Sandbox
) -> None:
    sellers = [
        (provider, fixture, snapshots[0])
        for provider in SENDERS
        for fixture in provider.fixtures()
        if (snapshots := snapshots_of(provider, fixture)) and snapshots[0].amount
    ]
    if not sellers:
        pytest.skip("no registered provider tells of payments")
    provider, fixture, snapshot = sellers[0]
    await send(client, order(provider, provider.verifier().generate(), receiver.url, fixture=fixture.name))
    assert sandbox.world.payment_amount(provider.slug, snapshot.external_id, 1) == snapshot.amount
