"""The franchise tree: who is below whom, what that allows, and limits that reach every endpoint of a tenant."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from chassis.db.database import Database
from chassis.testing.clock import ManualClock
from contracts.events.sync import RateLimit
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.republish import Republisher

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.usefixtures("fakes")]


@pytest.fixture
def republisher(database: Database, acts: Endpoints, clock: ManualClock) -> Republisher:
    return Republisher(database, acts, clock)


async def put(api: httpx.AsyncClient, slug: str, **fields: Any) -> httpx.Response:
    return await api.put(f"/v1/tenants/{slug}", json={"name": slug.upper()} | fields)


async def test_tenants_form_a_tree_without_cycles(api: httpx.AsyncClient, platform: Any) -> None:
    await platform.connect("w", "shop")
    assert (await api.get("/v1/tenants/shop")).json()["path"] == ["shop"], "one that nobody declared is a root"
    assert (await put(api, "network")).status_code == 201
    assert (await put(api, "owner", parent="network")).status_code == 201
    answer = await put(api, "shop", parent="owner")
    assert (answer.status_code, answer.json()["path"]) == (200, ["network", "owner", "shop"])
    for slug, parent, code in (
        ("network", "shop", "cycle"),
        ("shop", "shop", "cycle"),
        ("shop", "nobody", "unknown_tenant"),
    ):
        refused = await put(api, slug, parent=parent)
        assert (refused.status_code, refused.json()["code"]) == (422, code)
        assert [one["field"] for one in refused.json()["errors"]] == ["parent"]
    for number in range(4, 7):
        assert (await put(api, f"l{number}", parent="shop" if number == 4 else f"l{number - 1}")).status_code == 201
    assert (await put(api, "l7", parent="l6")).json()["code"] == "too_deep"
    assert (await put(api, "above")).status_code == 201
    assert (await put(api, "network", parent="above")).json()["code"] == "too_deep"
    children = (await api.get("/v1/tenants", params={"parent": "owner"})).json()["items"]
    assert [(one["slug"], one["name"], one["version"]) for one in children] == [("shop", "SHOP", 2)]
    etag = (await api.get("/v1/tenants/shop")).headers["etag"]
    for wanted, status in ((etag, 200), (etag, 412)):
        moved = await api.put("/v1/tenants/shop", json={"name": "moved"}, headers={"if-match": wanted})
        assert moved.status_code == status
    assert (await put(api, "No-Slug")).status_code == 422
    assert (await put(api, "x", limits={"deliveries_per_s": 0, "burst": 1})).status_code == 422
    assert (await put(api, "x", limits={"deliveries_per_s": 9e9, "burst": 1})).json()["code"] == "over_limit"
    assert (await api.get("/v1/tenants/x")).status_code == 404
    actions = [action for _, action, _ in await platform.audited()]
    assert actions.count("tenant.declared") == 6
    assert actions.count("tenant.changed") == 2


async def test_deliveries_are_routed_downwards_only(api: httpx.AsyncClient, platform: Any) -> None:
    for slug, parent in (("network", None), ("owner", "network"), ("shop", "owner"), ("other", None)):
        await put(api, slug, parent=parent)
    _, endpoint = await platform.connect("w", "owner")

    async def route(tenant: str) -> httpx.Response:
        routes = {"source": "body:/account", "accounts": {"acct_1": tenant}}
        return await api.patch(endpoint, json={"tenant_routes": routes})

    for tenant in ("network", "other", "nobody"):
        refused = await route(tenant)
        assert (refused.status_code, refused.json()["code"]) == (422, "foreign_tenant")
        assert [one["field"] for one in refused.json()["errors"]] == ["tenant_routes.accounts.acct_1"]
    assert (await route("owner")).status_code == 200
    assert (await route("shop")).status_code == 200
    routed = (await platform.newest(endpoint)).tenant_routes
    assert routed is not None
    assert routed.accounts == {"acct_1": "shop"}
    away = await put(api, "shop", parent="other")
    assert (away.status_code, away.json()["code"]) == (409, "tenant_in_use")
    assert (await put(api, "shop", parent="owner", name="renamed")).status_code == 200
    assert (await put(api, "owner", parent="other")).status_code == 200, "both move together"
    await api.patch(endpoint, json={"tenant_routes": None})
    assert (await put(api, "shop", parent=None)).status_code == 200


async def test_a_tenants_limit_reaches_all_of_its_endpoints_in_batches(
    api: httpx.AsyncClient, platform: Any, republisher: Republisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync_worker.endpoints.republish.BATCH", 2)
    mine = [(await platform.connect("w", "t1", f"a{number}"))[1] for number in range(3)]
    _, foreign = await platform.connect("w", "t2")
    await put(api, "t1", limits={"deliveries_per_s": 2.5, "burst": 7})
    assert [await republisher.publish_batch() for _ in range(3)] == [2, 1, 0]
    for endpoint in mine:
        record = await platform.newest(endpoint)
        assert (record.tenant_rate, record.version) == (RateLimit(per_s=2.5, burst=7), 2)
    assert len(await platform.records(foreign)) == 1
    _, later = await platform.connect("w", "t1", "later")
    assert (await platform.newest(later)).tenant_rate == RateLimit(per_s=2.5, burst=7)
    await put(api, "t1", limits={"deliveries_per_s": 2.5, "burst": 7})
    assert await republisher.publish_batch() == 0, "nothing changed"
    await put(api, "t1")
    assert [await republisher.publish_batch() for _ in range(2)] == [2, 2]
    assert (await platform.newest(mine[0])).tenant_rate is None
