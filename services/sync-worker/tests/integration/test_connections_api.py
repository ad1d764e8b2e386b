"""The API of the sync worker: connections with secrets that never come out again, payments, effects."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.sealing import Keyring, SealError
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, migrated_dsn, schema_differences
from contracts.codec import decode
from contracts.errors import Terminal
from contracts.events.platform import AuditRecorded
from contracts.events.sync import EndpointConfigured, endpoint_secret_place
from contracts.topics import PLATFORM_AUDIT, SYNC_ENDPOINTS
from providers import registry
from providers.provider import Provider
from sync_worker.connections.vault import Vault

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

CONNECTIONS = "/v1/connections"
REAL = [provider for provider in registry.all_providers() if provider.manifest.webhook]
CANARY = "canary-5f1c"


def new(provider: str = "payer", **fields: Any) -> dict[str, Any]:
    secrets = {"webhook": f"{CANARY}-w", "api_key": f"{CANARY}-k"}
    return {"provider": provider, "tenant": "t1", "account_ref": "acct", "secrets": secrets} | fields


async def outgoing(database: Database, topic: str) -> list[Any]:
    return list(await rows(database.dsn, "SELECT key, value FROM outbox WHERE topic = $1 ORDER BY id", topic))


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "sync_worker")
    assert await schema_differences(dsn, "sync_worker") == []


@pytest.mark.parametrize("provider", REAL, ids=lambda p: p.slug)
async def test_any_real_provider_can_be_connected(
    api: httpx.AsyncClient, database: Database, keyring: Keyring, provider: Provider
) -> None:
    secret = provider.verifier().generate().verifying
    body = new(provider.slug, secrets={provider.webhook.secret: secret})
    answer = await api.post(CONNECTIONS, json=body)
    assert answer.status_code == 201, answer.text
    (endpoint,) = answer.json()["endpoints"]
    assert endpoint["url"] == f"https://gateway.test/hooks/{endpoint['id']}"
    (row,) = await outgoing(database, SYNC_ENDPOINTS.name)
    configured = decode(EndpointConfigured, row["value"])
    assert (row["key"].decode(), configured.url, configured.version) == (endpoint["id"], endpoint["url"], 1)
    (sealed,) = configured.secrets
    place = endpoint_secret_place("t1", endpoint["id"], sealed.key_id)
    assert keyring.open(base64.b64decode(sealed.sealed), place) == secret
    with pytest.raises(SealError):
        keyring.open(base64.b64decode(sealed.sealed), endpoint_secret_place("t2", endpoint["id"], sealed.key_id))


async def test_a_secret_never_comes_out_again(
    api: httpx.AsyncClient, database: Database, fakes: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fakes
    created = await api.post(CONNECTIONS, json=new(), headers={"idempotency-key": "k1"})
    path = f"{CONNECTIONS}/{created.json()['id']}"
    answers = [
        created,
        await api.post(CONNECTIONS, json=new(), headers={"idempotency-key": "k1"}),
        await api.post(CONNECTIONS, json=new()),
        await api.post(CONNECTIONS, json=new(account_ref="b", secrets={"webhook": CANARY, "nobody": CANARY})),
        await api.post(CONNECTIONS, json=new(secrets={"webhook": [CANARY]})),
        await api.post(CONNECTIONS, content=f'{{"secrets": {CANARY}'),
        await api.get(CONNECTIONS),
        await api.get(path),
        await api.delete(path),
        await api.get(path),
    ]
    assert [one.status_code for one in answers] == [201, 201, 409, 422, 422, 422, 200, 200, 204, 200]
    assert answers[7].json()["secrets"] == ["api_key", "webhook"]
    async with database.connection() as connection:
        assert len(await connection.fetch("SELECT FROM credentials")) == 0, "the connection is revoked"
    tables = ("outbox", "connections", "credentials", "endpoints", "endpoint_secrets", "idempotent_answers")
    async with database.connection() as connection:
        stored = [await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables]
    captured = capfd.readouterr()
    hexed = CANARY.encode().hex()
    for text in (*(one.text for one in answers), str(stored), captured.out, captured.err):
        assert CANARY not in text
        assert hexed not in text


async def test_the_same_key_gives_the_same_answer_and_another_request_is_a_conflict(
    api: httpx.AsyncClient, database: Database, fakes: Any
) -> None:
    assert fakes
    first = await api.post(CONNECTIONS, json=new(), headers={"idempotency-key": "k1"})
    again = await api.post(CONNECTIONS, json=new(), headers={"idempotency-key": "k1"})
    assert (again.status_code, again.json()) == (201, first.json())
    other = await api.post(CONNECTIONS, json=new(account_ref="b"), headers={"idempotency-key": "k1"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    exists = await api.post(CONNECTIONS, json=new())
    assert (exists.status_code, exists.json()["code"]) == (409, "connection_exists")
    assert (await api.post(CONNECTIONS, json=new(tenant="t2"))).status_code == 201
    assert len(await outgoing(database, SYNC_ENDPOINTS.name)) == 2
    audit = [decode(AuditRecorded, row["value"]) for row in await outgoing(database, PLATFORM_AUDIT.name)]
    assert [(one.actor, one.action, one.tenant) for one in audit] == [
        ("ann", "connection.created", "t1"),
        ("ann", "endpoint.created", "t1"),
        ("ann", "connection.created", "t2"),
        ("ann", "endpoint.created", "t2"),
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"provider": "No Slug"}, "provider"),
        ({"tenant": 5}, "tenant"),
        ({"account_ref": ""}, "account_ref"),
        ({"mode": "test"}, "mode"),
        ({"method": "nothing"}, "method"),
        ({"method": "api_key", "secrets": {"webhook": "w"}}, "secrets.api_key"),
        ({"account_ref": "a\u0000b"}, "account_ref"),
        ({"colour": "red"}, "colour"),
        ({"lane": "fast"}, "lane"),
        ({"secrets": {}}, "secrets.webhook"),
        ({"secrets": {"webhook": ""}}, "secrets.webhook"),
        ({"secrets": {"webhook": "w", "nobody": "x"}}, "secrets.nobody"),
        ({"options": {"nobody": "x"}}, "options.nobody"),
        ({"options": {"idempotency_lifetime_h": "soon"}}, "options.idempotency_lifetime_h"),
        ({"secrets": "w"}, "secrets"),
    ],
)
async def test_a_bad_body_is_422_and_names_the_field(
    api: httpx.AsyncClient, fakes: Any, change: dict[str, Any], field: str
) -> None:
    assert fakes
    answer = await api.post(CONNECTIONS, json=new() | change)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_an_unknown_provider_is_404(api: httpx.AsyncClient, fakes: Any) -> None:
    assert fakes
    answer = await api.post(CONNECTIONS, json=new("nobody"))
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_provider")


async def test_a_revoked_connection_is_gone_from_the_gateway_and_from_the_vault(
    api: httpx.AsyncClient, database: Database, keyring: Keyring, fakes: Any
) -> None:
    assert fakes
    created = (await api.post(CONNECTIONS, json=new())).json()
    path = f"{CONNECTIONS}/{created['id']}"
    assert [(await api.delete(path)).status_code for _ in range(2)] == [204, 204]
    sent = await outgoing(database, SYNC_ENDPOINTS.name)
    assert [(row["key"].decode(), row["value"] is None) for row in sent] == [
        (created["endpoints"][0]["id"], False),
        (created["endpoints"][0]["id"], True),
    ]
    shown = (await api.get(path)).json()
    assert (shown["state"], shown["endpoints"], shown["secrets"]) == ("revoked", [], [])
    async with database.connection() as connection:
        assert not await connection.fetch("SELECT FROM credentials")
    assert len(await outgoing(database, PLATFORM_AUDIT.name)) == 3, "the second time nothing happened"
    async with database.connection() as connection:
        with pytest.raises(Terminal):
            await Vault(keyring).account(connection, uuid4())


async def test_who_may_do_what(api: httpx.AsyncClient, issuer: LocalIssuer, fakes: Any) -> None:
    assert fakes
    viewer, nobody = issuer.headers(Role.VIEWER), {"authorization": ""}
    service = issuer.headers(Role.SERVICE)
    reads = [CONNECTIONS, f"{CONNECTIONS}/{uuid4()}", "/v1/entities/payments", f"/v1/entities/payments/{uuid4()}"]
    for path in [*reads, "/v1/effects"]:
        assert (await api.get(path, headers=nobody)).status_code == 401
        assert (await api.get(path, headers=service)).status_code == 403
        assert (await api.get(path, headers=viewer)).status_code == (404 if "-" in path else 200)
    for headers, status in ((nobody, 401), (viewer, 403)):
        assert (await api.post(CONNECTIONS, json=new(), headers=headers)).status_code == status
        assert (await api.delete(f"{CONNECTIONS}/{uuid4()}", headers=headers)).status_code == status
    assert (await api.delete(f"{CONNECTIONS}/{uuid4()}")).status_code == 404
    assert (await api.get(f"{CONNECTIONS}/no-uuid")).status_code == 404


async def pages(api: httpx.AsyncClient, path: str, key: str) -> list[str]:
    seen: list[str] = []
    after: str | None = None
    while True:
        answer = await api.get(path, params={"limit": 2} | ({"after": after} if after else {}))
        assert answer.status_code == 200, answer.text
        seen += [item[key] for item in answer.json()["items"]]
        after = answer.json()["next"]
        if after is None:
            return seen


async def test_lists_show_everything_once_in_pages(api: httpx.AsyncClient, desk: Any, kit: Any) -> None:
    connection = await desk.connect(kit.payer)
    for number in range(5):
        desk.later(seconds=number % 2)
        payment = await desk.pay(kit.payer, connection, external_id=f"p{number}", phone="+15005550006")
        desk.saga = type(desk.saga)(int=desk.saga.int + 1)
        await desk.run(desk.refund(payment), kit.answered(200, {"id": "re"}))
    shown = await pages(api, "/v1/entities/payments", "external_id")
    assert sorted(shown) == [f"p{number}" for number in range(5)]
    assert len(set(await pages(api, "/v1/effects", "key"))) == 5
    assert len(await pages(api, CONNECTIONS, "id")) == 1
    one = (await api.get("/v1/entities/payments", params={"external_id": "p3"})).json()["items"][0]
    assert (one["amount"], one["status"]) == (1000, "succeeded")
    alone = (await api.get(f"/v1/entities/payments/{one['id']}")).json()
    assert set(alone) == set(one)
    assert not {"contact", "fence"} & set(alone)
    assert (await api.get("/v1/effects", params={"saga_id": "x"})).json()["errors"][0]["field"] == "saga_id"
    assert (await api.get("/v1/effects", params={"colour": "x"})).json()["errors"][0]["field"] == "colour"


async def test_a_revoked_account_can_be_connected_again(api: httpx.AsyncClient, fakes: Any) -> None:
    assert fakes
    first = (await api.post(CONNECTIONS, json=new())).json()
    assert (await api.delete(f"{CONNECTIONS}/{first['id']}")).status_code == 204
    again = await api.post(CONNECTIONS, json=new())
    assert again.status_code == 201
    assert again.json()["id"] != first["id"]


async def test_a_cursor_of_another_list_and_an_impossible_character_are_the_callers_mistake(
    api: httpx.AsyncClient,
) -> None:
    foreign = base64.urlsafe_b64encode(b'["not-a-uuid"]').decode()
    for query in (f"after={foreign}", "tenant=%00"):
        answer = await api.get(f"{CONNECTIONS}?{query}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_value")
