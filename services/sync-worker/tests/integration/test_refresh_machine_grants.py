"""Tokens without a person: client credentials and signed assertions go the same way; revoking ends them there too."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest

from contracts.errors import Terminal
from providers import oauth as rules
from providers import registry
from providers.manifest import Manifest
from providers.provider import Provider
from sync_worker.connections.token_endpoint import TokenEndpoint

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

SHARED = "k" * 32


def machine() -> Provider:
    """Return a provider whose API takes tokens that no person grants."""
    uses: dict[str, Any] = {"use": ["api"], "required": False}
    names = ("client_id", "client_secret", "signing_key")
    place = {"token_url": "https://id.machine.test/token", "revoke_url": "https://id.machine.test/revoke"}
    assertion = {"algorithm": "HS256", "secret": "signing_key", "claims": {"aud": "{token_url}"}, "lifetime_s": 60}
    document: dict[str, Any] = {
        "schema": 1,
        "slug": "machine",
        "name": "Machine",
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "secrets": {name: {"description": "a secret of the test"} | uses for name in names},
        "api": {
            "base_url": "https://api.machine.test",
            "auth": {
                "app": {"kind": "oauth2", "grant": "client_credentials", "client_auth": "basic", "scopes": ["read"]}
                | place,
                "signed": {"kind": "oauth2", "grant": "jwt_bearer", "assertion": assertion} | place,
            },
        },
    }
    return Provider(Path("/nowhere"), Manifest.model_validate(document))


@pytest.fixture
def machines(played: None, monkeypatch: pytest.MonkeyPatch) -> Provider:  # noqa: ARG001 (its effect)
    found = dict(registry.discover(registry.ROOT)) | {"machine": machine()}
    monkeypatch.setattr(registry, "discover", lambda _root: found)
    return found["machine"]


async def connected(oauth: Any, method: str, secrets: dict[str, str]) -> UUID:
    body = {"method": method, "secrets": secrets, "account_ref": "acct", "mode": "live"}
    made = await oauth.create("machine", **body)
    assert made["state"] == "live"
    return UUID(made["id"])


async def test_client_credentials_bring_a_token_on_the_first_call(machines: Provider, oauth: Any) -> None:
    connection = await connected(oauth, "app", {"client_id": "c", "client_secret": "fake"})
    account = await oauth.parts.tokens.account(connection)
    assert oauth.sandbox.oauth.accepts(machines.slug, account.secrets["access_token"])
    assert await oauth.parts.tokens.account(connection) == account
    await oauth.end_tokens(connection)
    again = await oauth.parts.tokens.account(connection)
    assert again.version > account.version
    assert oauth.sandbox.oauth.token_calls["machine"] == 2


async def test_a_new_client_secret_ends_the_token_of_the_old_one(machines: Provider, oauth: Any) -> None:
    assert machines
    connection = await connected(oauth, "app", {"client_id": "c", "client_secret": "fake"})
    account = await oauth.parts.tokens.account(connection)
    put = {"secrets": {"client_secret": "fake-2"}}
    assert (await oauth.api.put(f"/v1/connections/{connection}/credentials", json=put)).status_code == 200
    newer = await oauth.parts.tokens.account(connection)
    assert newer.secrets["client_secret"] == "fake-2"
    assert newer.secrets["access_token"] != account.secrets["access_token"]


async def test_an_assertion_is_signed_for_the_token_endpoint(
    machines: Provider, oauth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[rules.TokenCall] = []
    post = TokenEndpoint.post

    async def kept(self: TokenEndpoint, slug: str, call: rules.TokenCall, **more: Any) -> Any:
        sent.append(call)
        return await post(self, slug, call, **more)

    monkeypatch.setattr(TokenEndpoint, "post", kept)
    connection = await connected(oauth, "signed", {"signing_key": SHARED})
    account = await oauth.parts.tokens.account(connection)
    assert oauth.sandbox.oauth.accepts(machines.slug, account.secrets["access_token"])
    claims = jwt.decode(
        sent[0].fields["assertion"], SHARED, algorithms=["HS256"], audience="https://id.machine.test/token"
    )
    assert claims["exp"] - claims["iat"] == 60


async def test_revoking_ends_the_token_at_the_provider(machines: Provider, oauth: Any) -> None:
    connection = await connected(oauth, "app", {"client_id": "c", "client_secret": "fake"})
    account = await oauth.parts.tokens.account(connection)
    assert (await oauth.api.delete(f"/v1/connections/{connection}")).status_code == 204
    assert not oauth.sandbox.oauth.accepts(machines.slug, account.secrets["access_token"])
    with pytest.raises(Terminal):
        await oauth.parts.tokens.account(connection)


async def test_a_client_that_is_refused_needs_a_person_and_a_new_secret_heals_it(
    machines: Provider, oauth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machines
    connection = await connected(oauth, "app", {"client_id": "c", "client_secret": "fake"})

    async def refused(*_: Any, **__: Any) -> Any:
        return 401, {"error": "invalid_client"}

    with monkeypatch.context() as patched:
        patched.setattr(TokenEndpoint, "post", refused)
        with pytest.raises(Terminal) as error:
            await oauth.parts.tokens.account(connection)
    assert error.value.code == "needs_reauth"
    assert (await oauth.state(connection))["reason"] == "invalid_client"
    put = {"secrets": {"client_secret": "fake-2"}}
    answer = await oauth.api.put(f"/v1/connections/{connection}/credentials", json=put)
    assert answer.json()["state"] == "live"
    assert (await oauth.parts.tokens.account(connection)).secrets["access_token"]
