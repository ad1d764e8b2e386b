"""Providers played by the sandbox over loopback, for connections that a person authorises and tokens that end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.http.server import HttpServer
from chassis.sealing import Keyring
from chassis.testing.ports import free_port
from chassis.testing.service_kit import LocalIssuer, api_client
from providers import registry
from providers.manifest import Manifest
from providers.provider import Provider
from providers.sdk import HttpRequest
from sandbox.app import Sandbox
from sandbox.oauth import Conduct
from sandbox.settings import Settings
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.refresh import Timing
from sync_worker.connections.routes import ConnectionApi, connection_routes
from sync_worker.connections.scope import widen
from sync_worker.endpoints.desk import Endpoints
from sync_worker.outbound.path import Plan, Result

CANARY = "canary-7d21"
# The real ones take half a minute; the order of events is the same.
TIMING = Timing(lease_s=10.0, deadline_s=8.0, cooldown_s=0.3, recheck_s=0.2, wait_s=10.0, spare_s=1.0, poll_s=0.02)


def _provider(slug: str, *, sandbox: bool = True, refresh: str = "rotating") -> Provider:
    """Return a provider with deliveries, a static token, and OAuth whose refresh tokens rotate unless it is said."""
    names = {"webhook": ["webhook"], "access_token": ["api"], "client_id": ["api"]}
    signature = {"scheme": "hmac", "header": "X-Signature", "encoding": "hex", "template": "{body}"}
    flow = {
        "kind": "oauth2",
        "grant": "authorization_code",
        "authorize_url": f"https://{slug}.test/oauth2/authorize",
        "token_url": f"https://{slug}.test/oauth2/token",
        "sandbox_hosts": {f"{slug}.test": f"sandbox.{slug}.test"},
        "client_secret": "",
        "encoding": "json",
        "scopes": ["MERCHANT_PROFILE_READ", "PAYMENTS_READ", "PAYMENTS_WRITE"],
        "refresh": refresh,
        "refresh_expires_h": 2160,
        "account": "/merchant_id",
    }
    document: dict[str, Any] = {
        "schema": 1,
        "slug": slug,
        "name": slug,
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "capabilities": ["payments"],
        "secrets": {
            name: {"description": "a secret of the test", "use": use, "required": "webhook" in use}
            for name, use in names.items()
        },
        "options": {"idempotency_lifetime_h": {"description": "hours that a key is known", "pattern": "|[0-9]+"}},
        "webhook": {"signature": signature, "event_id": ["body:/id"], "event_type": ["body:/type"]},
        "api": {
            "base_url": f"https://api.{slug}.test",
            "sandbox_base_url": f"https://api.sandbox.{slug}.test" if sandbox else "",
            "auth": {"access_token": {"kind": "bearer", "secret": "access_token"}, "oauth": flow},
        },
        "health": {"probe": {"path": "/v2/locations", "timeout_ms": 500}},
    }
    return Provider(Path("/nowhere"), Manifest.model_validate(document))


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the providers of the tests to the registry."""
    more = {
        "acme": _provider("acme"),
        "endless": _provider("endless", refresh="none"),
        "liveonly": _provider("liveonly", sandbox=False),
    }
    found = {**registry.discover(registry.ROOT), **more}
    monkeypatch.setattr(registry, "discover", lambda _root: found)


@dataclass
class Way:
    """The port of the way of calls: it builds the request as that does, and ends as `results` say, in order."""

    parts: Parts | None = None
    results: list[Result] = field(default_factory=list)
    sent: list[HttpRequest] = field(default_factory=list)

    async def call(self, plan: Plan) -> Result:
        assert self.parts is not None
        self.sent.append(plan.build(await self.parts.tokens.account(plan.connection)))
        return self.results.pop(0)


@dataclass
class Oauth:
    """A worker whose providers are a sandbox: its API, its tokens, and the sandbox's ledger."""

    database: Database
    sandbox: Sandbox
    parts: Parts
    way: Way
    api: httpx.AsyncClient
    another: Callable[..., Parts]

    async def create(self, provider: str = "acme", **fields: Any) -> dict[str, Any]:
        """Make a connection that waits for a person and return it."""
        secrets = {"webhook": "fake-signing-key", "client_id": f"{CANARY}-app"}
        body = {"provider": provider, "tenant": "t1", "mode": "sandbox", "method": "oauth", "secrets": secrets}
        answer = await self.api.post("/v1/connections", json=body | fields)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def begin(self, connection: str, **body: Any) -> str:
        """Begin an authorisation and return the address for the person."""
        answer = await self.api.post(f"/v1/connections/{connection}/authorize", json=body)
        assert answer.status_code == 200, answer.text
        url: str = answer.json()["authorize_url"]
        return url

    async def approve(self, url: str, **more: str) -> dict[str, str]:
        """Do as the person's browser does and return what it is sent back with."""
        async with httpx.AsyncClient(trust_env=False) as browser:
            answer = await browser.get(url, params=dict(httpx.URL(url).params) | more)
        assert answer.status_code == 302, answer.text
        back = urlsplit(answer.headers["location"])
        assert f"{back.scheme}://{back.netloc}{back.path}" == "https://api.patchbay.test/v1/oauth/callback"
        return {name: values[0] for name, values in parse_qs(back.query).items()}

    async def callback(self, query: dict[str, str]) -> httpx.Response:
        """Bring the browser back: without any token of ours."""
        return await self.api.get("/v1/oauth/callback", params=query, headers={"authorization": ""})

    async def connect(self, provider: str = "acme", **more: str) -> UUID:
        """Make a connection and authorise it."""
        made = await self.create(provider)
        answer = await self.callback(await self.approve(await self.begin(made["id"]), **more))
        assert answer.status_code == 200, answer.text
        return UUID(answer.json()["id"])

    async def end_tokens(self, connection: UUID) -> None:
        """Let the stored token be over, as time would."""
        async with self.database.connection() as database:
            await database.execute(
                """UPDATE credentials SET expires_at = clock_timestamp() - interval '1 s',
                       refresh_after = clock_timestamp() - interval '1 s' WHERE connection = $1 AND kind = 'oauth'""",
                connection,
            )
        self.parts.tokens.forget(connection)

    async def state(self, connection: UUID | str) -> dict[str, Any]:
        """Return a connection as the API shows it."""
        found: dict[str, Any] = (await self.api.get(f"/v1/connections/{connection}")).json()
        return found

    def behave(self, slug: str = "acme", **conduct: Any) -> None:
        """Let a provider's OAuth server have a bad day."""
        self.sandbox.oauth.set(slug, Conduct(**conduct))


@pytest_asyncio.fixture
async def oauth(
    database: Database,
    keyring: Keyring,
    acts: Endpoints,
    issuer: LocalIssuer,
    played: None,  # noqa: ARG001 (its effect)
) -> AsyncIterator[Oauth]:
    clock = SystemClock()
    box, port = Sandbox(Settings(), clock), free_port()
    server = HttpServer(box.app, "127.0.0.1", port)
    await server.start()
    surroundings = Surroundings("https://api.patchbay.test", f"http://127.0.0.1:{port}", TIMING)
    made: list[Parts] = []

    def another(given: Surroundings = surroundings) -> Parts:
        made.append(Parts.build(database, keyring, acts, clock, given))
        return made[-1]

    parts = another()
    way = Way(parts)
    tokens = issuer.verifier()
    tokens.widen = widen(database)
    handlers = ConnectionApi(database, parts, ConnectionTest(database, way, clock), clock)
    # The log of the client names addresses, and this kit's callback has the code in its own.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    headers = issuer.headers(Role.OPERATOR, subject="ann")
    try:
        async with api_client(connection_routes(handlers, tokens), headers) as api:
            yield Oauth(database, box, parts, way, api, another)
    finally:
        for one in made:
            await one.close()
        await server.stop()
        await box.close()
