"""No tenant sees or writes another's connections, credentials and flows: by direct SQL, and through the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from chassis.db import tenancy
from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.testing.service_kit import LocalIssuer, api_client
from sync_worker.connections.scope import widen
from sync_worker.endpoints.routes import TenantApi, tenant_routes
from sync_worker.endpoints.tenant_tree import TenantTree

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

TABLES = ("connections", "credentials", "oauth_flows")
PROTECTED = (*TABLES, "payments")


async def two_tenants(oauth: Any) -> dict[str, str]:
    """Make an authorised connection and a flow for each of two tenants and return the connections."""
    made: dict[str, str] = {}
    for tenant in ("t1", "t2"):
        one = await oauth.create(tenant=tenant)
        await oauth.callback(await oauth.approve(await oauth.begin(one["id"]), account=f"m-{tenant}"))
        await oauth.begin(one["id"])
        made[tenant] = one["id"]
    return made


async def counted(connection: Any, *tenants: str) -> dict[str, int]:
    found = {}
    for table in TABLES:
        query = f"SELECT count(*) FROM {table} WHERE $1::text[] = '{{}}' OR tenant = ANY($1)"
        found[table] = await connection.fetchval(query, list(tenants))
    return found


async def test_the_service_is_no_superuser_and_cannot_pass_by(oauth: Any) -> None:
    async with oauth.database.connection() as connection:
        role = await connection.fetchrow("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user")
        assert tuple(role) == (False, False)
        forced = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relname = ANY($1) AND relrowsecurity AND relforcerowsecurity", PROTECTED
        )
    assert {one["relname"] for one in forced} == set(PROTECTED)


async def test_a_session_that_names_nobody_sees_nothing(oauth: Any) -> None:
    await two_tenants(oauth)
    stranger = await asyncpg.connect(oauth.database.dsn)
    try:
        assert await counted(stranger) == dict.fromkeys(TABLES, 0)
        await stranger.execute("SELECT set_config('patchbay.tenants', '', false)")
        assert await counted(stranger) == dict.fromkeys(TABLES, 0)
    finally:
        await stranger.close()


async def test_direct_sql_as_another_tenant_sees_and_writes_nothing(oauth: Any) -> None:
    made = await two_tenants(oauth)
    other = await asyncpg.connect(oauth.database.dsn)
    try:
        await other.execute("SELECT set_config('patchbay.tenants', 't2', false)")
        assert await counted(other, "t1") == dict.fromkeys(TABLES, 0)
        assert min((await counted(other, "t2")).values()) > 0
        for table in TABLES:
            assert await other.execute(f"UPDATE {table} SET tenant = tenant WHERE tenant = 't1'") == "UPDATE 0"
            assert await other.execute(f"DELETE FROM {table} WHERE tenant = 't1'") == "DELETE 0"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await other.execute(f"UPDATE {table} SET tenant = 't1'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute(
                """INSERT INTO credentials (connection, kind, version, tenant, sealed)
                   VALUES ($1, 'api_key', 9, 't1', 'x')""",
                UUID(made["t1"]),
            )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute(
                """INSERT INTO connections (id, tenant, provider, account_ref, state, options, created_at, created_by)
                   VALUES (gen_random_uuid(), 't1', 'acme', 'x', 'live', '{}', now(), 'eve')"""
            )
    finally:
        await other.close()
    async with oauth.database.connection() as connection:
        assert min((await counted(connection, "t1")).values()) > 0, "nothing of it is gone"


async def test_a_scope_ends_with_its_block_and_the_connection_is_clean(database: Database) -> None:
    for _ in range(20):
        with tenancy.scope(["t2", "t1"]):
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT current_setting('patchbay.tenants')") == "t1,t2"
            async with database.unit_of_work() as uow:
                assert await uow.connection.fetchval("SELECT current_setting('patchbay.tenants')") == "t1,t2"
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT current_setting('patchbay.tenants')") == "*"


async def test_a_token_for_a_tenant_sees_its_subtree_only(oauth: Any, issuer: LocalIssuer) -> None:
    made = await two_tenants(oauth)
    below = await oauth.create(tenant="t1-shop")
    async with oauth.database.connection() as connection:
        await connection.execute("UPDATE tenants SET parent = 't1' WHERE slug = 't1-shop'")

    def headers(*tenants: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {issuer.token(Role.OPERATOR, tenants=list(tenants))}"}

    async def seen(sent: dict[str, str]) -> set[str]:
        listed = (await oauth.api.get("/v1/connections", headers=sent)).json()["items"]
        return {one["id"] for one in listed}

    assert await seen({}) == {*made.values(), below["id"]}
    assert await seen(headers("t1")) == {made["t1"], below["id"]}
    assert await seen(headers("t1-shop")) == {below["id"]}
    for nobody in (headers(), headers("*"), headers("T1,t2"), headers(7), headers("unknown")):
        assert await seen(nobody) == set()
    foreign, own = headers("t2"), headers("t1")
    path = f"/v1/connections/{made['t1']}"
    for method, where in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/authorize"), ("POST", "/test")):
        answer = await oauth.api.request(method, path + where, headers=foreign, json={})
        assert answer.status_code == 404, (method, where, answer.text)
    assert (await oauth.api.get(path, headers=own)).status_code == 200
    body = {"provider": "acme", "tenant": "t1", "secrets": {"webhook": "fake-key"}, "account_ref": "m9"}
    answer = await oauth.api.post("/v1/connections", json=body, headers=foreign)
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_tenant")


async def test_a_token_for_a_tenant_cannot_widen_itself(oauth: Any, issuer: LocalIssuer, acts: Any) -> None:
    clock = oauth.sandbox.world.clock
    tokens = issuer.verifier()
    tokens.widen = widen(oauth.database)
    served = tenant_routes(TenantApi(oauth.database, TenantTree(acts, clock, acts.limits)), tokens)
    async with api_client(served, issuer.headers(Role.OPERATOR)) as api:
        for slug in ("t1", "t2"):
            assert (await api.put(f"/v1/tenants/{slug}", json={"name": slug})).status_code == 201
        own = {"authorization": f"Bearer {issuer.token(Role.OPERATOR, tenants=['t1'])}"}

        async def put(slug: str, **body: str) -> int:
            return (await api.put(f"/v1/tenants/{slug}", json={"name": slug} | body, headers=own)).status_code

        assert await put("t1-shop", parent="t1") == 201
        assert await put("t1-shop", parent="t1", name="Shop") == 200
        assert await put("t2", parent="t1") == 403, "it would see what was not its own"
        assert await put("t3") == 403
        assert await put("t1-shop", parent="t2") == 403
        assert await put("t1-shop") == 403
