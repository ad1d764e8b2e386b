"""The development setting that sends every question for a vendor's key to the sandbox."""

from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError

from chassis.testing.clock import ManualClock
from chassis.testing.service_kit import LocalIssuer
from contracts.errors import Transient
from providers.sdk import KeyRequest
from webhook_gateway.keys import KeyCache
from webhook_gateway.settings import Settings

URL = "https://keys.vendor.example/v1/keys.json"
PINNED = r"https://keys\.vendor\.example/v1/[a-z.]+"


def cache_of(override: str, asked: list[str]) -> KeyCache:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, stream=httpx.ByteStream(b"no certificate"))

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return KeyCache(ManualClock(), client=client, roots=[], override=override)


@pytest.mark.asyncio
async def test_keys_and_confirmations_are_asked_for_at_the_override() -> None:
    asked: list[str] = []
    cache = cache_of("http://127.0.0.1:8706/_keys", asked)
    # The sandbox's certificates lead to no root that anybody knows.
    assert await cache.get(KeyRequest(URL, URL, PINNED, chain=True)) == b"no certificate"
    await cache.confirm("https://vendor.example/?Action=Confirm&Token=a")
    assert asked == [
        "http://127.0.0.1:8706/_keys/keys.vendor.example/v1/keys.json",
        "http://127.0.0.1:8706/_keys/vendor.example/?Action=Confirm&Token=a",
    ]
    await cache.close()


@pytest.mark.asyncio
async def test_an_override_does_not_widen_what_a_delivery_may_name() -> None:
    asked: list[str] = []
    cache = cache_of("http://127.0.0.1:8706/_keys", asked)
    for url in ("https://elsewhere.example/v1/keys.json", "http://keys.vendor.example/v1/keys.json"):
        with pytest.raises(Transient):
            await cache.get(KeyRequest(url, url, PINNED))
    with pytest.raises(Transient):
        await cache.confirm("http://169.254.169.254/latest/meta-data")
    assert asked == []
    await cache.close()


def test_the_override_is_empty_unless_set_and_has_the_form_of_an_address(issuer: LocalIssuer) -> None:
    common = {**issuer.settings(), "kafka_bootstrap": "127.0.0.1:1"}
    assert Settings(**common).vendor_key_override == ""
    assert Settings(**common, vendor_key_override="http://sandbox:8000/_keys").vendor_key_override
    for wrong in ("sandbox", "file:///etc", "http://x/y?z", "http://x/../y"):
        with pytest.raises(ValidationError):
            Settings(**common, vendor_key_override=wrong)
