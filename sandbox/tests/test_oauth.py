"""The sandbox's OAuth server: approval, codes that work once, families of refresh tokens, and its bad days."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import httpx
import pytest

from providers import oauth, registry
from providers.manifest import OAuth2Auth
from providers.sdk import Account
from sandbox.app import Sandbox

pytestmark = pytest.mark.asyncio

ACCOUNT = Account("", {"client_id": "app-1", "client_secret": "fake"})
REDIRECT = "https://patchbay.test/callback"
VERIFIER = "v" * 43


def method(slug: str = "square") -> OAuth2Auth:
    found = registry.get(slug).api.method("oauth")
    assert isinstance(found, OAuth2Auth)
    return found


async def approved(client: httpx.AsyncClient, slug: str = "square", **more: str) -> dict[str, list[str]]:
    asked = oauth.authorize_url(
        method(slug), ACCOUNT, redirect_uri=REDIRECT, state="s1", verifier=VERIFIER, scopes=("A", "B")
    )
    parts = urlsplit(asked)
    query = urlencode(dict(parse_qsl(parts.query)) | more)
    answer = await client.get(f"/{slug}{parts.path}?{query}")
    assert answer.status_code == 302
    assert answer.headers["location"].startswith(REDIRECT)
    return parse_qs(urlsplit(answer.headers["location"]).query)


async def call(client: httpx.AsyncClient, asked: oauth.TokenCall, slug: str = "square") -> httpx.Response:
    body: dict[str, Any] = {"json" if asked.as_json else "data": dict(asked.fields)}
    return await client.post(
        f"/{slug}{urlsplit(asked.url).path}", auth=asked.basic_auth or httpx.USE_CLIENT_DEFAULT, **body
    )


async def exchanged(client: httpx.AsyncClient, slug: str = "square", **wrong: str) -> httpx.Response:
    code = (await approved(client, slug))["code"][0]
    known = {"code": code, "redirect_uri": REDIRECT, "verifier": VERIFIER} | wrong
    return await call(client, oauth.code_call(method(slug), ACCOUNT, **known), slug)


async def refreshed(client: httpx.AsyncClient, sandbox: Sandbox, token: str) -> httpx.Response:
    return await call(client, oauth.refresh_call(method(), ACCOUNT, token, sandbox.world.clock.now()))


async def test_a_code_brings_tokens_and_names_the_account(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    answer = (await exchanged(client)).json()
    assert answer["merchant_id"] == "sandbox-account"
    assert answer["scope"] == "A B"
    assert sandbox.oauth.accepts("square", answer["access_token"])
    assert not sandbox.oauth.accepts("stripe", answer["access_token"])
    endless = (await exchanged(client, "stripe")).json()
    assert "expires_in" not in endless
    assert "refresh_token" not in endless


async def test_a_code_works_once_and_a_second_use_ends_what_it_brought(client: httpx.AsyncClient) -> None:
    code = (await approved(client))["code"][0]
    asked = oauth.code_call(method(), ACCOUNT, code=code, redirect_uri=REDIRECT, verifier=VERIFIER)
    assert [(await call(client, asked)).status_code for _ in range(2)] == [200, 400]
    (family,) = (await client.get("/_control/oauth")).json()["items"]
    assert family["dead"]


@pytest.mark.parametrize("wrong", [{"verifier": "w" * 43}, {"redirect_uri": REDIRECT + "/"}, {"code": "x"}])
async def test_verifier_and_redirect_must_be_exact(client: httpx.AsyncClient, wrong: dict[str, str]) -> None:
    answer = await exchanged(client, **wrong)
    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


async def test_a_rotated_refresh_token_kills_its_family(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = (await exchanged(client)).json()["refresh_token"]
    second = (await refreshed(client, sandbox, first)).json()
    assert second["refresh_token"] != first
    assert (await refreshed(client, sandbox, first)).json() == {"error": "invalid_grant"}
    assert (await refreshed(client, sandbox, second["refresh_token"])).status_code == 400
    assert not sandbox.oauth.accepts("square", second["access_token"])


async def test_with_grace_a_lost_answer_may_be_asked_for_again(served: httpx.AsyncClient, sandbox: Sandbox) -> None:
    first = (await exchanged(served)).json()["refresh_token"]
    conduct = {"lose_answers": 1, "grace": "until_used"}
    assert (await served.put("/_control/oauth/square", json=conduct)).status_code == 200
    with pytest.raises(httpx.TransportError):
        await refreshed(served, sandbox, first)
    third = (await refreshed(served, sandbox, first)).json()["refresh_token"]
    assert (await refreshed(served, sandbox, third)).status_code == 200
    assert (await refreshed(served, sandbox, first)).status_code == 400, "its successor has been used"
    (family,) = (await served.get("/_control/oauth", params={"provider": "square"})).json()["items"]
    assert (family["refreshes"], family["reuses"], family["dead"]) == (3, 2, True)


async def test_denial_fewer_scopes_outage_and_expiry(client: httpx.AsyncClient, sandbox: Sandbox) -> None:
    assert (await approved(client, deny="1"))["error"] == ["access_denied"]
    conduct = {"scopes": ["B"], "account": "m-7", "fail_calls": 1}
    await client.put("/_control/oauth/square", json=conduct)
    assert (await exchanged(client)).status_code == 503
    answer = (await exchanged(client)).json()
    assert (answer["scope"], answer["merchant_id"]) == ("B", "m-7")
    assert (await client.post("/_control/oauth/square/expire")).json() == {"expired": 1}
    assert not sandbox.oauth.accepts("square", answer["access_token"])
    assert (await client.put("/_control/oauth/nobody", json={})).status_code == 404
