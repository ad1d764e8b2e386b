"""Credentials rotate without a failed call: the new one is tried first, the old one ends last, whoever crashes."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID, uuid4

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.http.server import HttpServer
from chassis.sealing import Keyring
from chassis.testing.harness import rows, until
from chassis.testing.ports import free_port
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import decode
from contracts.errors import Terminal
from contracts.events.platform import AuditRecorded
from contracts.topics import PLATFORM_AUDIT
from providers import registry
from providers.manifest import Manifest
from providers.provider import Provider
from providers.sdk import Account, HttpRequest
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.refresh import Timing
from sync_worker.connections.rotation import Rotations
from sync_worker.connections.routes import ConnectionApi, RotationApi, connection_routes, rotation_routes
from sync_worker.endpoints.desk import Endpoints
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Plan
from sync_worker.outbound.route_table import RouteTable

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

OLD, NEW = "canary-a-3e90", "canary-b-81f2"
TIMING = Timing(recheck_s=0.2, wait_s=5.0, spare_s=0.0, poll_s=0.02)
DRAIN_S = 0.8


def rotor(*, probe: bool = True) -> Provider:
    """Return a provider with a static key, tokens for a machine's secret, and tokens that a person grants."""
    uses: dict[str, Any] = {"description": "a secret of the test", "use": ["api"], "required": False}
    urls = {"token_url": "https://id.rotor.test/token", "revoke_url": "https://id.rotor.test/revoke"}
    app = {"kind": "oauth2", "grant": "client_credentials", "client_auth": "basic", **urls}
    person = {"kind": "oauth2", "grant": "authorization_code", "authorize_url": "https://id.rotor.test/go", **urls}
    document: dict[str, Any] = {
        "schema": 1,
        "slug": "rotor",
        "name": "Rotor",
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "secrets": dict.fromkeys(("access_token", "client_id", "client_secret"), uses),
        "api": {
            "base_url": "https://api.rotor.test",
            "auth": {"key": {"kind": "bearer", "secret": "access_token"}, "app": app, "person": person},
        },
    }
    if probe:
        document["health"] = {"probe": {"path": "/me", "timeout_ms": 2000}}
    return Provider(Path("/nowhere"), Manifest.model_validate(document))


@dataclass
class Vendor:
    """The vendor: it takes some keys and secrets, and remembers whom it refused and which tokens were ended."""

    accepted: set[str] = field(default_factory=set)
    seen: list[tuple[str, int]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    broken: bool = False

    async def me(self, request: Request) -> Response:
        if self.broken:
            return Response(status_code=500)
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        taken = key in self.accepted or (key in self.tokens and key not in self.ended)
        self.seen.append((key, 200 if taken else 401))
        # Calls overlap with the changes of the rotation.
        await asyncio.sleep(0.01)  # lint-skip: PB011 a vendor that takes its time
        return JSONResponse({}, 200 if taken else 401)

    async def token(self, request: Request) -> Response:
        secret = b64decode(request.headers["authorization"].removeprefix("Basic ")).decode().partition(":")[2]
        if secret not in self.accepted:
            return JSONResponse({"error": "invalid_client"}, 401)
        made = f"token-{uuid4().hex}"
        self.tokens[made] = secret
        return JSONResponse({"access_token": made, "expires_in": 3600})

    async def revoke(self, request: Request) -> Response:
        self.ended.append(parse_qs((await request.body()).decode())["token"][0])
        return Response()


@dataclass
class Turn:
    """A worker at the vendor: its API, its calls and its rotations."""

    database: Database
    vendor: Vendor
    api: httpx.AsyncClient
    parts: Parts
    path: CallPath
    rotations: Rotations

    async def connect(self, method: str, **secrets: str) -> str:
        body = {"provider": "rotor", "tenant": "t1", "account_ref": "a", "method": method, "secrets": secrets}
        made = await self.api.post("/v1/connections", json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["id"])

    async def rotate(self, connection: str, **secrets: str) -> httpx.Response:
        return await self.api.post(f"/v1/connections/{connection}/credentials/rotate", json={"secrets": secrets})

    async def call(self, connection: str) -> str:
        def build(_account: Account) -> HttpRequest:
            return HttpRequest("GET", "/me")

        provider = registry.get("rotor")
        plan = Plan(provider, UUID(connection), "t1", "", "read", build, timeout_s=5.0)
        return (await self.path.call(plan)).meaning

    async def states(self, connection: str) -> list[tuple[str, int, str, str]]:
        listed = (await self.api.get(f"/v1/connections/{connection}/credentials")).json()["items"]
        return [(one["kind"], one["version"], one["state"], one["old_check"]) for one in listed]

    async def finished(self, connection: str) -> list[tuple[str, int, str, str]]:
        async def done() -> bool:
            await self.rotations.finish_due()
            return "draining" not in str(await self.states(connection))

        await until(done, "the old credentials are revoked")
        return await self.states(connection)

    async def audited(self) -> list[tuple[str, str, dict[str, str]]]:
        query = "SELECT value FROM outbox WHERE topic = $1 ORDER BY xid, id"
        found = [
            decode(AuditRecorded, one["value"]) for one in await rows(self.database.dsn, query, PLATFORM_AUDIT.name)
        ]
        return [(one.actor, one.action, one.detail) for one in found if one.action != "connection.created"]


@pytest.fixture(autouse=True)
def rotors(monkeypatch: pytest.MonkeyPatch) -> dict[str, Provider]:
    found = {"rotor": rotor()}
    monkeypatch.setattr(registry, "discover", lambda _root: found)
    return found


@pytest_asyncio.fixture
async def turn(
    database: Database, keyring: Keyring, acts: Endpoints, issuer: LocalIssuer, kit: Any
) -> AsyncIterator[Turn]:
    clock, vendor, port = SystemClock(), Vendor({OLD, NEW}), free_port()
    served = [
        Route("/rotor/me", vendor.me),
        Route("/rotor/token", vendor.token, methods=["POST"]),
        Route("/rotor/revoke", vendor.revoke, methods=["POST"]),
    ]
    server = HttpServer(Starlette(routes=served), "127.0.0.1", port)
    await server.start()
    base = f"http://127.0.0.1:{port}"
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test", base, TIMING))
    client = ProviderClient(clock, base_url_override=base)
    path = kit.path_of(parts.tokens, client, RouteTable(), clock)
    test = ConnectionTest(database, path, clock)
    rotations = Rotations(database, parts, test, clock, drain_s=DRAIN_S)
    tokens = issuer.verifier()
    handlers = [
        *connection_routes(ConnectionApi(database, parts, test, clock), tokens),
        *rotation_routes(RotationApi(database, rotations), tokens),
    ]
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        async with api_client(handlers, issuer.headers(Role.OPERATOR, subject="ann")) as api:
            yield Turn(database, vendor, api, parts, path, rotations)
    finally:
        await parts.close()
        await client.close()
        await server.stop()


async def test_no_call_fails_while_a_key_is_rotated_and_the_old_one_is_proved_refused(
    turn: Turn, capfd: pytest.CaptureFixture[str]
) -> None:
    connection = await turn.connect("key", access_token=OLD)
    calls: list[str] = []

    async def work() -> None:
        for _ in range(15):
            meaning = await turn.call(connection)
            calls.append(meaning)

    workers = [asyncio.create_task(work()) for _ in range(20)]
    await until(lambda: _more_than(calls, 20), "calls with the old key")
    answer = await turn.rotate(connection, access_token=NEW)
    assert (answer.status_code, answer.json()["credentials"]) == (200, {"access_token": 2})
    assert await turn.rotations.finish_due() == 0, "the old one still drains"
    await asyncio.gather(*workers)
    assert (len(calls), set(calls)) == (300, {"success"})
    assert {status for _, status in turn.vendor.seen} == {200}
    assert {key for key, _ in turn.vendor.seen} == {OLD, NEW}
    turn.vendor.accepted.remove(OLD)
    turn.vendor.seen.clear()
    assert await turn.finished(connection) == [
        ("access_token", 2, "active", ""),
        ("access_token", 1, "revoked", "refused"),
    ]
    assert turn.vendor.seen == [(OLD, 401)]
    assert await turn.call(connection) == "success"
    assert (await turn.api.get(f"/v1/connections/{connection}")).json()["state"] == "live"
    async with turn.database.connection() as database:
        assert await database.fetchval("SELECT sealed FROM credentials WHERE version = 1") == b""
        tables = ("outbox", "connections", "credentials", "idempotent_answers")
        stored = str([await database.fetch(f"SELECT t::text FROM {table} t") for table in tables])
    assert await turn.audited() == [
        ("ann", "connection.rotation_begun", {"mode": "live", "kinds": "access_token"}),
        ("ann", "connection.credentials_flipped", {"mode": "live", "credentials": "access_token/2"}),
        (
            "sync-worker",
            "connection.old_credentials_revoked",
            {"mode": "live", "old_check": "refused", "credentials": "access_token/1"},
        ),
    ]
    captured = capfd.readouterr()
    for text in (stored, captured.out, captured.err, answer.text):
        for canary in (OLD, NEW):
            assert canary not in text
            assert canary.encode().hex() not in text


async def _more_than(found: list[str], number: int) -> bool:
    return len(found) > number


async def test_a_key_that_the_provider_refuses_changes_nothing(turn: Turn) -> None:
    connection = await turn.connect("key", access_token=OLD)
    answer = await turn.rotate(connection, access_token="canary-unknown")
    assert (answer.status_code, answer.json()["code"]) == (422, "credential_refused")
    assert "canary" not in answer.text
    assert await turn.states(connection) == [("access_token", 1, "active", "")]
    assert await turn.call(connection) == "success"
    assert turn.vendor.seen[-1] == (OLD, 200)
    assert (await turn.api.get(f"/v1/connections/{connection}")).json()["state"] == "live"
    dropped = {"mode": "live", "reason": "credential_refused", "credentials": "access_token/2"}
    assert (await turn.audited())[-1] == ("ann", "connection.rotation_dropped", dropped)


async def test_an_outage_is_no_verdict_and_changes_nothing(turn: Turn) -> None:
    connection = await turn.connect("key", access_token=OLD)
    turn.vendor.broken = True
    assert (await turn.rotate(connection, access_token=NEW)).status_code == 503
    assert await turn.states(connection) == [("access_token", 1, "active", "")]


async def test_what_cannot_be_revoked_there_is_told_to_be_accepted_still(turn: Turn) -> None:
    connection = await turn.connect("key", access_token=OLD)
    assert (await turn.rotate(connection, access_token=NEW)).status_code == 200
    again = await turn.rotate(connection, access_token="canary-third")
    assert (again.status_code, again.json()["code"]) == (409, "rotation_under_way")
    assert (await turn.finished(connection))[-1] == ("access_token", 1, "revoked", "still_accepted")


async def test_an_outage_at_the_end_leaves_the_old_one_unprobed(turn: Turn) -> None:
    connection = await turn.connect("key", access_token=OLD)
    assert (await turn.rotate(connection, access_token=NEW)).status_code == 200
    turn.vendor.broken = True
    assert (await turn.finished(connection))[-1] == ("access_token", 1, "revoked", "not_probed")


async def test_another_worker_finishes_what_a_crash_left(turn: Turn) -> None:
    """One died before the flip, its successor between the lease and the end."""
    connection = await turn.connect("key", access_token=OLD)
    await turn.rotations._store(UUID(connection), {"access_token": NEW}, "ann")
    assert await turn.rotations.finish_due() == 0
    async with turn.database.connection() as database:
        await database.execute("UPDATE credentials SET due_at = clock_timestamp() WHERE state = 'next'")
    assert await turn.rotations.finish_due() == 1
    assert await turn.states(connection) == [("access_token", 1, "active", "")]
    assert (await turn.audited())[-1][2]["reason"] == "abandoned"
    assert (await turn.rotate(connection, access_token=NEW)).status_code == 200
    async with turn.database.connection() as database:
        await database.execute(
            """UPDATE credentials SET due_at = clock_timestamp(), lease_owner = 'dead',
                   lease_until = clock_timestamp() + interval '300 ms' WHERE state = 'draining'"""
        )
    assert await turn.rotations.finish_due() == 0, "the lease of the dead one holds"
    assert (await turn.finished(connection))[-1][2] == "revoked"


async def test_secrets_that_were_replaced_meanwhile_win(turn: Turn) -> None:
    connection = await turn.connect("key", access_token=OLD)
    await turn.rotations._store(UUID(connection), {"access_token": NEW}, "ann")
    put = {"secrets": {"access_token": "canary-third"}}
    assert (await turn.api.put(f"/v1/connections/{connection}/credentials", json=put)).status_code == 200
    with pytest.raises(Terminal) as error:
        await turn.rotations._flip(UUID(connection), None, "ann")
    assert error.value.code == "rotation_overtaken"
    active = [one for one in await turn.states(connection) if one[2] == "active"]
    assert active == [("access_token", 3, "active", "")]


async def test_the_secret_of_a_machine_brings_its_own_token_and_the_old_token_is_ended(turn: Turn) -> None:
    connection = await turn.connect("app", client_id="app-1", client_secret=OLD)
    assert await turn.call(connection) == "success"
    (old_token,) = turn.vendor.tokens
    answer = await turn.rotate(connection, client_secret=NEW)
    assert answer.status_code == 200, answer.text
    assert await turn.call(connection) == "success"
    new_token = turn.vendor.seen[-1][0]
    assert turn.vendor.tokens[new_token] == NEW
    async with turn.database.connection() as database:
        query = "SELECT count(*), count(DISTINCT due_at) AS instants FROM credentials WHERE state = 'draining'"
        assert tuple(await database.fetchrow(query)) == (2, 1), "secret and token of one rotation end together"  # type: ignore[arg-type]
    turn.vendor.accepted.remove(OLD)
    states = await turn.finished(connection)
    assert turn.vendor.ended == [old_token]
    assert ("client_secret", 1, "revoked", "refused") in states
    assert ("client_secret", 2, "active", "") in states
    assert await turn.call(connection) == "success"
    refused = await turn.rotate(connection, client_secret="canary-unknown")
    assert (refused.status_code, refused.json()["code"]) == (422, "credential_refused")


async def test_what_cannot_be_rotated_says_so(turn: Turn, rotors: dict[str, Provider]) -> None:
    connection = await turn.connect("key", access_token=OLD)
    for secrets, field_name in (({"nobody": "x"}, "secrets.nobody"), ({"client_id": "x"}, "secrets.client_id")):
        answer = await turn.rotate(connection, **secrets)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field_name)
    stale = f"/v1/connections/{connection}/credentials/rotate"
    body = {"secrets": {"access_token": NEW}}
    assert (await turn.api.post(stale, json=body, headers={"if-match": '"9"'})).status_code == 412
    assert (await turn.rotate(str(uuid4()), access_token=NEW)).status_code == 404
    rotors["rotor"] = rotor(probe=False)
    answer = await turn.rotate(connection, access_token=NEW)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_probe")
    assert await turn.states(connection) == [("access_token", 1, "active", "")]
    assert (await turn.api.patch(f"/v1/connections/{connection}", json={"paused": True})).status_code == 200
    answer = await turn.rotate(connection, access_token=NEW)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_connection")
