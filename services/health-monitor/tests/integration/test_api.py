"""The API shows routes, decisions and versions, and lets operators steer. Real database, no broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chassis.http.auth import Role
from chassis.testing.service_kit import LocalIssuer
from providers import registry

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("path", ["/v1/routes", "/v1/health"])
async def test_the_overview_has_state_reason_and_both_windows(replica: Any, path: str) -> None:
    old = START - timedelta(minutes=30)
    await replica.take(replica.calls(("success", 30), at=old, latency_ms=10))
    await replica.take(replica.calls(("success", 3), ("timeout", 1), ("client_error", 4), latency_ms=40))
    body = await replica.get(path)
    assert body["next"] is None
    route = body["items"][0]
    assert {
        name: route[name] for name in ("provider", "capability", "mode", "state", "share", "epoch", "reason", "order")
    } == {
        "provider": "acme",
        "capability": "messaging.sms",
        "mode": "live",
        "state": "healthy",
        "share": 100,
        "epoch": [1, 1],
        "reason": "the first call succeeded",
        "order": ["acme"],
    }
    recent, hour = route["windows"]["5m"], route["windows"]["1h"]
    assert (recent["calls"], recent["success_rate"], recent["latency_ms_mean"]) == (8, 0.75, 40)
    assert (hour["calls"], hour["outcomes"]["success"], hour["latency_ms_max"]) == (38, 33, 40)


async def test_pages_of_the_overview_join_without_gap_or_overlap(replica: Any) -> None:
    names = [f"p{number}" for number in range(5)]
    await replica.take(*(replica.calls(("success", 1), provider=name) for name in names))
    seen, after = [], ""
    while True:
        body = await replica.get(f"/v1/routes?limit=2{after}")
        seen += [item["provider"] for item in body["items"]]
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    assert seen == names


async def test_a_capability_explains_its_order_shares_and_decisions(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)), replica.calls(("success", 20), provider="other"))
    await replica.take(replica.calls(("server_error", 6)))
    body = await replica.get("/v1/routes/messaging.sms")
    assert (body["order"], body["shares"], body["configured"]) == (
        ["acme", "other"],
        {"acme": 0, "other": 100},
        False,
    )
    assert {one["provider"]: one["state"] for one in body["providers"]} == {"acme": "down", "other": "healthy"}
    last = body["decisions"][0]
    assert (last["provider"], last["before"], last["after"], last["kind"]) == ("acme", "suspect", "down", "outage")
    assert "of the last 20 calls failed" in last["reason"]
    assert "seen by 1 worker and 2 tenants" in last["reason"]
    assert last["evidence"]["s_outage"] > last["evidence"]["h_outage"]
    one = await replica.get("/v1/routes/messaging.sms/acme")
    assert one == await replica.get("/v1/health/messaging.sms/acme")
    assert [t["after"] for t in one["transitions"]] == ["down", "suspect", "healthy"]


async def test_an_operator_forces_a_state_with_a_time_to_live_once_per_key(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)), replica.calls(("success", 20), provider="other"))
    wanted = {"state": "maintenance", "ttl_s": 60, "reason": "vendor works"}
    url = "/v1/routes/messaging.sms/acme/override"
    async with replica.api(Role.OPERATOR) as api:
        first = await api.put(url, json=wanted, headers={"idempotency-key": "k1"})
        again = await api.put(url, json=wanted, headers={"idempotency-key": "k1"})
        assert first.status_code == 200, first.text
        assert first.json() == again.json()
        assert again.headers["idempotency-replayed"] == "true"
        await replica.passes()
        shown = await replica.get("/v1/routes/messaging.sms/acme")
        assert (shown["state"], shown["shares"], shown["override"]["actor"]) == (
            "maintenance",
            {"acme": 0, "other": 100},
            "kim",
        )
        assert shown["transitions"][0]["actor"] == "kim"
        assert (await api.delete(url)).status_code == 200
        assert (await api.delete(url)).status_code == 404
        await replica.passes()
        assert (await replica.get("/v1/routes/messaging.sms/acme"))["state"] == "recovering"
    audited = await replica.audited()
    operated = [(a.actor, a.action) for a in audited if a.actor == "kim"]
    assert operated[0] == ("kim", "route.overridden")
    assert ("kim", "route.override_ended") in operated


async def test_a_sandbox_outage_is_shown_with_the_sandbox_and_leaves_the_live_route_alone(replica: Any) -> None:
    for mode in ("live", "sandbox"):
        calls = (replica.calls(("success", 20), provider=name, mode=mode) for name in ("acme", "other"))
        await replica.take(*calls)
    await replica.take(replica.calls(("server_error", 6), mode="sandbox"))
    for query, state, seen in (("", "healthy", 20), ("?mode=live", "healthy", 20), ("?mode=sandbox", "down", 26)):
        listed = (await replica.get(f"/v1/routes{query}"))["items"]
        assert [(one["provider"], one["state"]) for one in listed] == [("acme", state), ("other", "healthy")]
        assert {one["mode"] for one in listed} == {"sandbox" if "sandbox" in query else "live"}
        assert listed[0]["windows"]["5m"]["calls"] == seen
    live = await replica.get("/v1/routes/messaging.sms")
    tried = await replica.get("/v1/routes/messaging.sms?mode=sandbox")
    assert (live["mode"], live["shares"]) == ("live", {"acme": 100, "other": 0})
    assert (tried["mode"], tried["shares"]) == ("sandbox", {"acme": 0, "other": 100})
    assert {one["after"] for one in live["decisions"]} == {"healthy"}
    assert (tried["decisions"][0]["after"], tried["decisions"][0]["mode"]) == ("down", "sandbox")
    assert (await replica.get("/v1/routes/messaging.sms/acme?mode=sandbox"))["state"] == "down"
    assert (await replica.get("/v1/routes/messaging.sms/acme"))["state"] == "healthy"
    targets = {(one.target, one.detail["mode"]) for one in await replica.audited() if one.detail.get("after") == "down"}
    assert targets == {("route:messaging.sms:acme:sandbox", "sandbox")}


async def test_an_override_is_for_one_mode(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)), replica.calls(("success", 20), mode="sandbox"))
    url = "/v1/routes/messaging.sms/acme/override"
    body = {"state": "maintenance", "ttl_s": 60, "reason": "drill", "mode": "sandbox"}
    async with replica.api(Role.OPERATOR) as api:
        put = await api.put(url, json=body)
        assert (put.status_code, put.json()["mode"]) == (200, "sandbox")
        await replica.passes()
        shown = [await replica.get(f"/v1/routes/messaging.sms/acme?mode={mode}") for mode in ("live", "sandbox")]
        assert [one["state"] for one in shown] == ["healthy", "maintenance"]
        assert [one["override"] and one["override"]["state"] for one in shown] == [None, "maintenance"]
        assert (await api.delete(url)).status_code == 404, "the live route has no override"
        assert (await api.delete(f"{url}?mode=test")).status_code == 422
        assert (await api.delete(f"{url}?mode=sandbox")).json()["mode"] == "sandbox"


async def test_an_override_ends_by_itself(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)))
    async with replica.api(Role.OPERATOR) as api:
        body = {"state": "forced_down", "ttl_s": 5, "reason": "drill"}
        assert (await api.put("/v1/routes/messaging.sms/acme/override", json=body)).status_code == 200
    await replica.passes()
    assert (await replica.published())[-1].state == "forced_down"
    await replica.passes(5)
    assert (await replica.published())[-1].state == "recovering"


async def test_an_operator_orders_the_providers_of_a_capability(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)), replica.calls(("success", 20), provider="other"))
    url = "/v1/capabilities/messaging.sms/order"
    async with replica.api(Role.OPERATOR) as api:
        refused: tuple[dict[str, Any], ...] = (
            {"order": ["acme", "acme"]},
            {"order": ["acme"], "shares": {"acme": 90}},
            {"order": ["acme"], "shares": {"other": 100}},
            {"order": []},
        )
        for bad in refused:
            assert (await api.put(url, json=bad)).status_code == 422
        assert (await api.put(url, json={"order": ["nobody"]})).status_code == 404
        put = await api.put(url, json={"order": ["other", "acme"], "shares": {"other": 60, "acme": 40}})
        assert put.status_code == 200, put.text
    await replica.passes()
    assert {(p.order, tuple(sorted(p.shares.items()))) for p in (await replica.published())[-2:]} == {
        (("other", "acme"), (("acme", 40), ("other", 60)))
    }
    body = await replica.get("/v1/routes/messaging.sms")
    assert (body["configured"], body["order"], body["wanted_shares"]) == (
        True,
        ["other", "acme"],
        {"other": 60, "acme": 40},
    )


async def test_self_fault_is_audited_and_cleared_by_an_operator(replica: Any) -> None:
    await replica.take(replica.calls(("success", 20)))
    await replica.passes()
    replica.monitor.control_probe(failed=True)
    await replica.passes()
    await replica.take(replica.calls(("timeout", 20)))
    assert (await replica.published())[-1].state == "healthy"
    async with replica.api(Role.OPERATOR) as api:
        assert (await api.post("/v1/self-fault/clear")).status_code == 200
    await replica.passes()
    await replica.take(replica.calls(("timeout", 6)))
    assert (await replica.published())[-1].state == "down"
    audited = await replica.audited()
    told = [a.action for a in audited if a.action.startswith("self_fault")]
    assert told == ["self_fault.began", "self_fault.cleared", "self_fault.ended"]


async def test_a_capability_that_nobody_called_yet_is_unknown_and_open(replica: Any) -> None:
    capability = "messaging.sms"
    declaring = sorted(one.slug for one in registry.all_providers() if capability in one.manifest.capabilities)
    async with replica.api() as api:
        found = (await api.get(f"/v1/routes/{capability}")).json()
        assert [(one["provider"], one["state"], one["share"]) for one in found["providers"]] == [
            (slug, "unknown", 100) for slug in declaring
        ]
        assert (found["order"], found["configured"], found["decisions"]) == (declaring, False, [])
        await replica.take(replica.calls(("success", 1)))
        called = (await api.get(f"/v1/routes/{capability}")).json()
    # Those of a call have more to tell, in the same words.
    assert called["providers"][0]["windows"]["5m"].keys() == found["providers"][0]["windows"]["5m"].keys()
    assert set(called) == set(found)
    assert set(called["providers"][0]) == set(found["providers"][0])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/routes/messaging.sms/nobody", 404),
        ("/v1/routes/no.such.capability", 404),
        ("/v1/routes?page=2", 422),
        ("/v1/routes?after=%21", 422),
        ("/v1/routes?mode=test", 422),
        ("/v1/routes/messaging.sms?mode=test", 422),
        ("/v1/routes/messaging.sms/nobody?mode=test", 422),
        ("/v1/health/messaging.sms/nobody", 404),
    ],
)
async def test_bad_reads_are_refused(replica: Any, issuer: LocalIssuer, path: str, status: int) -> None:
    async with replica.api() as api:
        assert (await api.get(path)).status_code == status
        assert (await api.get("/v1/routes", headers={"authorization": ""})).status_code == 401
        assert (await api.get("/v1/routes", headers=issuer.headers(Role.SERVICE))).status_code == 403


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"state": "forced_down", "reason": "no time to live"}, 422),
        ({"state": "forced_down", "ttl_s": 0, "reason": "x"}, 422),
        ({"state": "down", "ttl_s": 60, "reason": "x"}, 422),
        ({"state": "forced_down", "ttl_s": 60, "reason": ""}, 422),
        ({"state": "forced_down", "ttl_s": 60, "reason": "x", "mode": "test"}, 422),
        ({"state": "forced_down", "ttl_s": 60, "reason": "x"}, 404),
    ],
)
async def test_bad_overrides_are_refused(replica: Any, issuer: LocalIssuer, body: dict[str, Any], status: int) -> None:
    url = "/v1/routes/messaging.sms/nobody/override"
    async with replica.api(Role.OPERATOR) as api:
        assert (await api.put(url, json=body)).status_code == status
        assert (await api.put(url, json=body, headers=issuer.headers(Role.VIEWER))).status_code == 403
