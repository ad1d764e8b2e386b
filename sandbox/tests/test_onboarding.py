"""What vendors do at set-up time, against a receiver that is right and receivers that are each wrong in one way."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.responses import Response

from providers import registry
from providers.provider import Provider
from providers.sdk import HandshakeReply, InboundRequest, KeyNeeded, KeyPair, Refused, Secret
from sandbox.fresh import items_of

pytestmark = pytest.mark.asyncio

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
SHAKING = [one for one in SENDERS if one.webhook.handshakes]
SIGNING = [one for one in SHAKING if any(table.verified for table in one.webhook.handshakes)]
PROBING = [one for one in SENDERS if any(not items_of(one, fixture) for fixture in one.fixtures())]
CHALLENGING = [one for one in SHAKING if any("{challenge}" in str(table.texts()) for table in one.webhook.handshakes)]

Reply = Callable[[InboundRequest], Coroutine[Any, Any, Response]]


def options_of(provider: Provider) -> dict[str, str]:
    """The endpoint's own values for what the vendor's examples use."""
    found: dict[str, str] = {}
    for one in provider.handshake_fixtures():
        for name, example in one.fixture.options.items():
            found[name] = example if provider.manifest.options[name].pattern != ".*" else f"{example}-own"
    return found


@pytest.fixture(autouse=True)
def short_wait_for_confirmations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.onboarding.CONFIRMATION_S", 0.2)


def receiver_of(provider: Provider, keys: KeyPair, client: httpx.AsyncClient, *, confirms: bool = True) -> Reply:
    """Answer as the manifest says, fetching keys and visiting addresses at the sandbox."""
    options = options_of(provider)
    secrets = [Secret("k", keys.verifying)]

    async def get(method: str, url: str, body: bytes = b"") -> bytes:
        return (await client.request(method, "/_keys/" + url.removeprefix("https://"), content=body)).content

    async def answered(request: InboundRequest) -> HandshakeReply | None:
        now = datetime.now(UTC)
        try:
            reply = provider.handshake(request, secrets, options, now)
            if reply is None:
                provider.verifier(options).verify(request, secrets, now)
        except KeyNeeded as needed:
            wanted = needed.request
            assert wanted.name not in request.keys
            key = await get(wanted.method, wanted.url, wanted.body)
            return await answered(replace(request, keys={wanted.name: key}))
        return reply

    async def reply(request: InboundRequest) -> Response:
        try:
            found = await answered(request)
        except Refused:
            return Response(status_code=provider.webhook.refused_status)
        if found is None:
            return Response(provider.webhook.success_body, provider.webhook.success_status)
        if found.confirm_url is not None and confirms:
            await get("GET", found.confirm_url)
        return Response(found.body, found.status, dict(found.headers))

    return reply


async def onboard(client: httpx.AsyncClient, provider: Provider, keys: KeyPair, url: str) -> dict[str, Any]:
    body = {"provider": provider.slug, "url": url, "secret": keys.signing, "options": options_of(provider)}
    answer = await client.post("/_control/handshakes", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def keys_of(provider: Provider) -> KeyPair:
    return provider.verifier(options_of(provider)).generate()


@pytest.mark.parametrize("provider", [*SHAKING, *PROBING], ids=lambda one: one.slug)
async def test_a_receiver_that_does_as_the_vendor_asks_is_let_in(
    provider: Provider, client: httpx.AsyncClient, receiver: Any
) -> None:
    keys = keys_of(provider)
    receiver.reply = receiver_of(provider, keys, client)
    found = await onboard(client, provider, keys, receiver.url)
    assert found["ok"], found
    assert found["items"]


@pytest.mark.parametrize("provider", [*SIGNING, *PROBING], ids=lambda one: one.slug)
async def test_a_receiver_that_believes_everybody_is_found_out(
    provider: Provider, client: httpx.AsyncClient, receiver: Any
) -> None:
    found = await onboard(client, provider, keys_of(provider), receiver.url)
    assert not found["ok"]
    assert any("forged" in one["name"] and not one["ok"] for one in found["items"])


@pytest.mark.parametrize("provider", CHALLENGING, ids=lambda one: one.slug)
async def test_yesterdays_challenge_does_not_satisfy(
    provider: Provider, client: httpx.AsyncClient, receiver: Any
) -> None:
    keys = keys_of(provider)
    honest = receiver_of(provider, keys, client)
    first: list[Response] = []

    async def parrot(request: InboundRequest) -> Response:
        answer = await honest(request)
        if answer.status_code == 200:
            first.append(answer)
            return first[0]
        return answer

    receiver.reply = parrot
    assert (await onboard(client, provider, keys, receiver.url))["ok"]
    assert not (await onboard(client, provider, keys, receiver.url))["ok"]


async def test_a_receiver_that_confirms_nothing_is_found_out(client: httpx.AsyncClient, receiver: Any) -> None:
    provider = next(one for one in SHAKING if any(table.confirm for table in one.webhook.handshakes))
    keys = keys_of(provider)
    receiver.reply = receiver_of(provider, keys, client, confirms=False)
    found = await onboard(client, provider, keys, receiver.url)
    assert [one["problems"] for one in found["items"] if not one["ok"]] == [["the address to confirm was not visited"]]


async def test_what_the_operator_enters_on_both_sides_is_asked_for(client: httpx.AsyncClient, receiver: Any) -> None:
    provider = next(one for one in SHAKING if any(table.token for table in one.webhook.handshakes))
    body = {"provider": provider.slug, "url": receiver.url, "secret": keys_of(provider).signing}
    answer = await client.post("/_control/handshakes", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "missing_option")
    assert receiver.got == []


async def test_a_vendor_without_a_set_up_asks_nothing(client: httpx.AsyncClient, receiver: Any) -> None:
    provider = next(one for one in SENDERS if one not in SHAKING and one not in PROBING)
    assert await onboard(client, provider, keys_of(provider), receiver.url) == {"ok": True, "items": []}


async def test_a_receiver_that_is_away_fails_every_check(client: httpx.AsyncClient) -> None:
    found = await onboard(client, SIGNING[0], keys_of(SIGNING[0]), "http://127.0.0.1:1/hooks/ep")
    assert {str(one["problems"]) for one in found["items"]} == {"['ConnectError']"}
