"""Webhooks that the sandbox sends, verified by the same code that the gateway uses."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from providers import registry
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyNeeded, KeyPair, Refused, Secret
from sandbox.app import Sandbox
from sandbox.fresh import freshened, items_of, snapshots_of
from sandbox.settings import Settings
from sandbox.signing import traits_of

pytestmark = pytest.mark.asyncio


@dataclass(frozen=True)
class Sender:
    """A provider with one set of its scheme's options, and what it sends."""

    provider: Provider
    options: dict[str, str]

    def __str__(self) -> str:
        return "-".join([self.provider.slug, *self.options.values()])

    @property
    def fixture(self) -> Fixture:
        return fixtures_for(self.provider, self.options)[0]

    @property
    def settings(self) -> dict[str, str]:
        return {**self.fixture.options, **self.options}

    def keys(self) -> KeyPair:
        return self.provider.verifier(self.settings).generate()

    def order(self, keys: KeyPair, url: str, **more: Any) -> dict[str, Any]:
        order = {"provider": self.provider.slug, "url": url, "secret": keys.signing, "fixture": self.fixture.name}
        return order | {"options": self.settings} | more

    def verify(self, keys: KeyPair, request: InboundRequest, fetched: dict[str, bytes] | None = None) -> str:
        seen = replace(request, url=self.provider.request_url(request.url, request.query_string), keys=fetched or {})
        secrets = [Secret("k", keys.verifying)]
        return self.provider.verifier(self.settings).verify(seen, secrets, datetime.now(UTC)).key_id


PROVIDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
SENDERS = [Sender(provider, options) for provider in PROVIDERS for options in variants(provider)]
every_sender = pytest.mark.parametrize("sender", SENDERS, ids=str)
PLAIN = next(
    one
    for one in SENDERS
    if traits_of(one.provider).covers == "body"
    and one.provider.webhook.throttle == "retry"
    and one.provider.webhook.retries
    and not one.provider.webhook.success_body
    and not traits_of(one.provider).fetches
)


async def send(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await client.post("/_control/deliveries", json=body)
    assert answer.status_code == 201, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def fetched(
    client: httpx.AsyncClient, sender: Sender, keys: KeyPair, request: InboundRequest
) -> dict[str, bytes]:
    """Do what the gateway does when a verifier asks for a vendor's key, at the sandbox's address for it."""
    try:
        sender.verify(keys, request)
    except Refused:
        return {}
    except KeyNeeded as needed:
        wanted = needed.request
        answer = await client.request(
            wanted.method, "/_keys/" + wanted.url.removeprefix("https://"), content=wanted.body
        )
        return {wanted.name: answer.content} if answer.is_success else {}
    return {}


@every_sender
async def test_fixture_arrives_signed(client: httpx.AsyncClient, receiver: Any, sender: Sender) -> None:
    keys = sender.keys()
    receiver.body = sender.provider.webhook.success_body
    (delivery,) = await send(client, sender.order(keys, receiver.url))
    (got,) = receiver.got
    expected = "unauthenticated" if not traits_of(sender.provider, sender.settings).authenticated else "k"
    assert sender.verify(keys, got, await fetched(client, sender, keys, got)) == expected
    assert got.method == sender.fixture.method
    before = items_of(sender.provider, sender.fixture, sender.settings)
    assert [one.event_type for one in sender.provider.split(got, sender.settings)] == [one.event_type for one in before]
    assert delivery["state"] == "delivered"
    assert [(one["status"], one["verdict"]) for one in delivery["attempts"]] == [(200, "delivered")]
    assert delivery["attempts"][0]["latency_ms"] > 0


@every_sender
@pytest.mark.parametrize("tamper", ["body", "signature", "stale", "future", "old_key"])
async def test_spoilt_delivery_does_not_verify(
    client: httpx.AsyncClient, receiver: Any, sender: Sender, tamper: str
) -> None:
    traits = traits_of(sender.provider, sender.settings)
    keys, former = sender.keys(), sender.keys()
    order = sender.order(keys, receiver.url, tamper=tamper, previous_secret=former.signing)
    impossible = {
        "body": traits.covers == "nothing" and "signs_no_body",
        "signature": not traits.authenticated and "signs_nothing",
        "stale": traits.stale_after_s is None and "signs_no_time",
        "future": traits.future_after_s is None and "signs_no_time",
        "old_key": traits.fetches and "vendor_keys",
    }[tamper]
    if impossible:
        answer = await client.post("/_control/deliveries", json=order)
        assert (answer.status_code, answer.json()["code"]) == (422, impossible)
        assert receiver.got == []
        return
    # The vendor's key is known to the receiver from an earlier, honest delivery.
    await send(client, sender.order(keys, receiver.url))
    await send(client, order)
    honest, spoilt = receiver.got
    known = await fetched(client, sender, keys, honest)
    with pytest.raises(Refused) as refused:
        sender.verify(keys, spoilt, known)
    expected = {"stale": "stale_timestamp", "future": "future_timestamp"}
    assert refused.value.reason == expected.get(tamper, "bad_signature")
    if tamper == "old_key":
        assert sender.verify(former, spoilt) == "k"


@every_sender
async def test_fresh_ids_rename_events_and_entities(sender: Sender, client: httpx.AsyncClient, receiver: Any) -> None:
    before = items_of(sender.provider, sender.fixture, sender.settings)
    for suffix in ("-x1", "-x1", "-x2"):
        await send(client, sender.order(sender.keys(), receiver.url, fresh=suffix))
    first, again, other = ([*sender.provider.split(got, sender.settings)] for got in receiver.got)
    assert [one.event_type for one in first] == [one.event_type for one in before]
    assert [one.event_id for one in first] != [one.event_id for one in before]
    assert [one.event_id for one in first] != [one.event_id for one in other]
    if "digest" not in str(sender.provider.webhook.event_id):
        assert [one.event_id for one in first] == [one.event_id for one in again]
    for old, new in zip(before, first, strict=True):
        assert (old.entity is None) == (new.entity is None)


async def test_fresh_ids_are_renamed_wherever_they_stand_and_nothing_else() -> None:
    for sender in SENDERS:
        made = freshened(sender.provider, sender.fixture, "-x1", sender.settings)
        assert made.message_id == f"{sender.fixture.message_id}-x1"
        assert len(made.headers) == len(sender.fixture.headers)
        assert made.content_type == sender.fixture.content_type
        assert freshened(sender.provider, sender.fixture, "", sender.settings) == sender.fixture


BATCHING = [
    one for one in SENDERS if one.provider.webhook.items != "single" and one.fixture.content_type.endswith("json")
]


@pytest.mark.parametrize("sender", BATCHING, ids=str)
async def test_a_batch_has_as_many_events_as_asked_for_all_different(
    sender: Sender, client: httpx.AsyncClient, receiver: Any
) -> None:
    keys = sender.keys()
    await send(client, sender.order(keys, receiver.url, events=7))
    (got,) = receiver.got
    items = sender.provider.split(got, sender.settings)
    assert len(items) == len({item.event_id for item in items}) == 7
    assert sender.verify(keys, got, await fetched(client, sender, keys, got)) == "k"


async def test_a_vendor_that_sends_one_event_at_a_time_makes_no_batch(client: httpx.AsyncClient, receiver: Any) -> None:
    single = next(one for one in SENDERS if one.provider.webhook.items == "single")
    answer = await client.post("/_control/deliveries", json=single.order(single.keys(), receiver.url, events=2))
    assert (answer.status_code, answer.json()["code"]) == (422, "no_batches")


async def test_copies_are_sent_one_after_the_other(client: httpx.AsyncClient, receiver: Any) -> None:
    deliveries = await send(client, PLAIN.order(PLAIN.keys(), receiver.url, copies=3))
    assert len(receiver.got) == 3
    assert len({one["id"] for one in deliveries}) == 3
    listed = (await client.get("/_control/deliveries", params={"provider": PLAIN.provider.slug})).json()["items"]
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(deliveries)]
    shown = await client.get(f"/_control/deliveries/{deliveries[0]['id']}")
    assert shown.json() == deliveries[0]


async def test_a_later_delivery_overtakes_an_earlier_one(client: httpx.AsyncClient, receiver: Any) -> None:
    keys = PLAIN.keys()
    names = [fixture.name for fixture in fixtures_for(PLAIN.provider, PLAIN.options)[:2]]
    order = PLAIN.order(keys, receiver.url, fixture=names[0], fresh="-a", later={"fixture": names[-1], "fresh": "-a"})
    deliveries = await send(client, order)
    assert [one["fixture"] for one in deliveries] == [names[-1], names[0]]
    assert [PLAIN.verify(keys, request) for request in receiver.got] == ["k", "k"]


async def test_a_body_and_headers_of_ones_own_are_signed_as_they_are(client: httpx.AsyncClient, receiver: Any) -> None:
    keys = PLAIN.keys()
    order = PLAIN.order(keys, receiver.url, body='{"id": "evt_own"}', headers={"x-note": "mine"})
    await send(client, {name: value for name, value in order.items() if name != "fixture"})
    (got,) = receiver.got
    assert (got.body, got.header("x-note")) == (b'{"id": "evt_own"}', "mine")
    assert PLAIN.verify(keys, got) == "k"


async def test_the_registered_address_is_signed_and_another_one_is_asked(
    client: httpx.AsyncClient, receiver: Any
) -> None:
    signing_urls = [one for one in SENDERS if "{url}" in one.provider.signature(one.options).model_dump_json()]
    sender = signing_urls[0]
    keys, registered = sender.keys(), "https://hooks.example.com/hooks/ep?shop=1"
    await send(client, sender.order(keys, receiver.url, registered_url=registered))
    (got,) = receiver.got
    assert got.query_string.startswith("shop=1")
    assert sender.verify(keys, replace(got, url=registered)) == "k"
    with pytest.raises(Refused):
        sender.verify(keys, got)


async def test_receiver_that_is_away_is_an_attempt_without_a_status(client: httpx.AsyncClient) -> None:
    (delivery,) = await send(client, PLAIN.order(PLAIN.keys(), "http://127.0.0.1:1/hooks/ep"))
    (attempt,) = delivery["attempts"]
    assert (attempt["status"], attempt["error"]) == (None, "ConnectError")


@pytest.mark.parametrize(
    "url",
    ["http://example.com/hooks/ep", "http://10.0.0.1/x", "http://127.0.0.1.example.com/x", "http://[::ffff:0a00:1]/"],
)
async def test_only_loopback_is_a_target(client: httpx.AsyncClient, url: str) -> None:
    for path in ("deliveries", "handshakes"):
        order = PLAIN.order(KeyPair("whsec_x", "whsec_x"), url)
        if path == "handshakes":
            del order["fixture"]
        answer = await client.post(f"/_control/{path}", json=order)
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
        ({"options": {"nosuchoption": "x"}}, "unknown_option"),
        ({"tamper": "old_key"}, "no_previous_secret"),
        ({"copies": 0}, "invalid_request"),
        ({"surprise": 1}, "invalid_request"),
    ],
)
async def test_bad_order_is_refused(
    client: httpx.AsyncClient, receiver: Any, changes: dict[str, Any], code: str
) -> None:
    keys = PLAIN.keys()
    answer = await client.post("/_control/deliveries", json=PLAIN.order(keys, receiver.url) | changes)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert keys.signing not in answer.text
    assert receiver.got == []


async def test_payments_in_webhooks_become_known_to_the_api(
    client: httpx.AsyncClient, receiver: Any, sandbox: Sandbox
) -> None:
    sellers = [
        (sender, fixture, snapshots[0])
        for sender in SENDERS
        for fixture in sender.provider.fixtures()
        if (snapshots := snapshots_of(sender.provider, fixture)) and snapshots[0].amount
    ]
    if not sellers:
        pytest.skip("no registered provider tells of payments")
    sender, fixture, snapshot = sellers[0]
    await send(client, sender.order(sender.keys(), receiver.url, fixture=fixture.name))
    assert sandbox.world.payment_amount(sender.provider.slug, snapshot.external_id, 1) == snapshot.amount


async def test_a_vendor_has_one_key_and_its_server_keeps_all_that_receivers_were_told(
    client: httpx.AsyncClient, receiver: Any
) -> None:
    sender = next(one for one in SENDERS if traits_of(one.provider, one.options).fetches)
    one, other = sender.keys(), sender.keys()
    await send(client, sender.order(one, receiver.url))
    # An endpoint's secret will do as well: the vendor signs with a key of its own.
    await send(client, sender.order(other, receiver.url) | {"secret": other.verifying})
    first, second = receiver.got
    known = await fetched(client, sender, one, first)
    assert sender.verify(one, first, known) == sender.verify(other, second, known) == "k"
    assert (await client.get("/_keys/nobody.example.com/keys")).status_code == 404
    assert json.loads(one.signing)["key"] not in (await client.get("/_control/deliveries")).text
