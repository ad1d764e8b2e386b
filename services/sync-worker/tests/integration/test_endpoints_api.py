"""Endpoints as operators configure them: what the gateways are told, who may do what, and what never comes out."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.service_kit import LocalIssuer, api_client
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.gateway import EndpointCodeOffered, endpoint_code_place
from contracts.events.sync import endpoint_secret_place
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.republish import Republisher
from sync_worker.endpoints.routes import EndpointApi, endpoint_routes

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.usefixtures("fakes")]

CANARY = "canary-77ab"


@pytest.fixture
def republisher(database: Database, acts: Endpoints, clock: ManualClock) -> Republisher:
    return Republisher(database, acts, clock)


async def rotate(api: httpx.AsyncClient, endpoint: str, value: str, **fields: Any) -> httpx.Response:
    return await api.post(f"{endpoint}/secrets", json={"value": value} | fields)


async def test_a_rotation_has_two_live_keys_until_its_overlap_ends(
    api: httpx.AsyncClient, platform: Any, keyring: Keyring, clock: ManualClock, republisher: Republisher
) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    answer = await rotate(api, endpoint, f"{CANARY}-2")
    assert (answer.status_code, answer.json()["key_id"], answer.json()["version"]) == (201, "k2", 2)
    record = await platform.newest(endpoint)
    end = clock.now() + timedelta(hours=24)
    assert [(key.key_id, key.not_before, key.not_after) for key in record.secrets] == [
        ("k2", None, None),
        ("k1", None, end),
    ]
    for key in record.secrets:
        place = endpoint_secret_place("t1", record.endpoint, key.key_id)
        assert keyring.open(base64.b64decode(key.sealed), place) == f"{CANARY}-{key.key_id[1]}"
    clock.advance(24 * 3600 - 1)
    assert await republisher.publish_batch() == 0
    clock.advance(1)
    assert await republisher.publish_batch() == 1
    assert await republisher.publish_batch() == 0
    record = await platform.newest(endpoint)
    assert ([key.key_id for key in record.secrets], record.version) == (["k2"], 3)
    assert [key["key_id"] for key in (await api.get(endpoint)).json()["keys"]] == ["k2"]
    assert (await platform.audited())[-1] == ("sync-worker", "endpoint.key_expired", {"key_id": "k1"})


async def test_an_overlap_begins_when_the_new_key_does_and_may_have_no_end(
    api: httpx.AsyncClient, platform: Any, clock: ManualClock
) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    begin = clock.now() + timedelta(days=2)
    answer = await rotate(api, endpoint, f"{CANARY}-2", not_before=begin.isoformat(), overlap_h=1)
    assert [key["state"] for key in answer.json()["keys"]] == ["live", "pending"]
    record = await platform.newest(endpoint)
    assert [(key.not_before, key.not_after) for key in record.secrets] == [
        (begin, None),
        (None, begin + timedelta(hours=1)),
    ]
    await rotate(api, endpoint, f"{CANARY}-3", overlap_h=None)
    assert [key.not_after for key in (await platform.newest(endpoint)).secrets][:2] == [None, None]
    await rotate(api, endpoint, f"{CANARY}-4", overlap_h=0)
    assert [key.key_id for key in (await platform.newest(endpoint)).secrets] == ["k4"]


async def test_a_key_that_ends_may_be_given_once_more_to_stay(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    await rotate(api, endpoint, f"{CANARY}-2")
    assert (await rotate(api, endpoint, f"{CANARY}-2")).json()["code"] == "known_secret"
    assert (await rotate(api, endpoint, f"{CANARY}-1", overlap_h=None)).status_code == 201
    ends = [(key.key_id, key.not_after is None) for key in (await platform.newest(endpoint)).secrets]
    assert ends == [("k3", True), ("k2", True), ("k1", False)]


async def test_key_ids_are_never_used_again(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    seen = []
    for number in range(2, 5):
        seen.append((await rotate(api, endpoint, f"{CANARY}-{number}")).json()["key_id"])
        assert (await api.delete(f"{endpoint}/secrets/{seen[-1]}?force=true")).status_code == 200
    assert seen == ["k2", "k3", "k4"]


async def test_the_last_key_that_stays_is_protected(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    alone = await api.delete(f"{endpoint}/secrets/k1")
    assert (alone.status_code, alone.json()["code"]) == (409, "last_key")
    await rotate(api, endpoint, f"{CANARY}-2")
    leaving = await api.delete(f"{endpoint}/secrets/k2")
    assert leaving.status_code == 409, "k1 ends tomorrow: without k2 deliveries would be refused from then on"
    assert (await api.delete(f"{endpoint}/secrets/k1")).status_code == 200
    assert [key.key_id for key in (await platform.newest(endpoint)).secrets] == ["k2"]
    assert (await api.delete(f"{endpoint}/secrets/k1")).status_code == 404
    assert (await api.delete(f"{endpoint}/secrets/k2", params={"force": "true"})).status_code == 200
    assert (await platform.newest(endpoint)).secrets == ()
    assert (await platform.audited())[-1] == ("ann", "endpoint.key_retired", {"key_id": "k2", "forced": "true"})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "value"),
        ({"value": ""}, "value"),
        ({"value": f"{CANARY}-1"}, "value"),
        ({"value": [CANARY]}, "value"),
        ({"value": CANARY, "overlap_h": 169}, "overlap_h"),
        ({"value": CANARY, "not_before": "2026-03-01T12:00:00"}, "not_before"),
        ({"value": CANARY, "key_id": "k9"}, "key_id"),
    ],
)
async def test_a_bad_key_is_422_and_changes_nothing(
    api: httpx.AsyncClient, platform: Any, body: dict[str, Any], field: str
) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    answer = await api.post(f"{endpoint}/secrets", json=body)
    assert (answer.status_code, [one["field"] for one in answer.json()["errors"]]) == (422, [field])
    assert len(await platform.records(endpoint)) == 1


async def test_there_is_a_bound_on_keys(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    answers = [await rotate(api, endpoint, f"{CANARY}-{number}") for number in range(2, 10)]
    assert [one.status_code for one in answers] == [201] * 7 + [409]
    assert answers[-1].json()["code"] == "too_many_keys"


async def test_a_repeated_rotation_is_one_rotation(
    api: httpx.AsyncClient, platform: Any, republisher: Republisher
) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    headers = {"idempotency-key": "r1"}
    first, again = [
        await api.post(f"{endpoint}/secrets", json={"value": f"{CANARY}-2"}, headers=headers) for _ in range(2)
    ]
    assert (first.status_code, again.json()) == (201, first.json())
    # Its transaction had an id before its turn came, so an older record might leave after it: it is sent once more.
    assert await republisher.publish_batch() == 1
    assert [one.version for one in await platform.records(endpoint) if one] == [1, 2, 2]


async def test_a_new_address_leaves_the_old_one_its_time_and_its_own_url(
    api: httpx.AsyncClient, platform: Any, clock: ManualClock, republisher: Republisher
) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    before = (await api.get(endpoint)).json()["url"]
    answer = await api.post(f"{endpoint}/rotate-url", json={"overlap_h": 2})
    assert answer.status_code == 200
    url = answer.json()["url"]
    assert url != before
    record = await platform.newest(endpoint)
    assert record.url == url
    assert [(one.token, one.url, one.not_after) for one in record.tokens] == [
        (before.rpartition("/")[2], before, clock.now() + timedelta(hours=2)),
        (url.rpartition("/")[2], url, None),
    ]
    assert (await api.get("/v1/endpoints")).json()["items"][0]["url"] == url
    clock.advance(2 * 3600)
    states = [one["state"] for one in (await api.get(endpoint)).json()["addresses"]]
    assert states == ["retired", "live"], "the gateway still knows it, to refuse it by name"
    clock.advance(30 * 86_400)
    assert await republisher.publish_batch() == 1
    assert [one.url for one in (await platform.newest(endpoint)).tokens] == [url]


async def test_a_tombstone_comes_after_all_that_was_published_at_the_same_time(
    api: httpx.AsyncClient, platform: Any
) -> None:
    connection, endpoint = await platform.connect(f"{CANARY}-1")
    changes = [
        api.patch(endpoint, json={"max_body_bytes": number}, headers={"idempotency-key": f"p{number}"})
        for number in range(1, 7)
    ]
    answers = await asyncio.gather(*changes, api.delete(f"/v1/connections/{connection}"))
    assert {one.status_code for one in answers[:-1]} <= {200, 404}
    assert answers[-1].status_code == 204
    assert (await platform.records(endpoint))[-1] is None, "whatever came before, the tombstone is last"


async def test_pause_and_resume_are_published_once_each(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    for act in ("pause", "pause", "resume"):
        assert (await api.post(f"{endpoint}/{act}")).status_code == 200
    told = [(one.state, one.version) for one in await platform.records(endpoint) if one]
    assert told == [("live", 1), ("paused", 2), ("live", 3)]
    assert [action for _, action, _ in await platform.audited()][1:] == ["endpoint.paused", "endpoint.resumed"]


async def test_settings_are_published_and_the_rest_stays(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    first = {
        "lane": "bulk",
        "allowed_ips": ["203.0.113.0/24"],
        "rate": {"per_s": 5, "burst": 10},
        "max_body_bytes": 1000,
        "lane_rules": [{"lane": "critical", "types": ["payment*"], "due": "/at", "timezone": "Europe/Paris"}],
        "arrivals": {"mode": "fixed", "max_gap_s": 600},
        "redact": ["/customer/email"],
        "card_numbers": "mask",
        "options": {"idempotency_lifetime_h": "5"},
    }
    assert (await api.patch(endpoint, json=first)).status_code == 200
    assert (await api.patch(endpoint, json={"rate": None})).json()["rate"] is None
    record = (await platform.newest(endpoint)).model_dump(mode="json")
    for name, value in (first | {"rate": None}).items():
        kept = record[name][0] if name == "lane_rules" else record[name]
        wanted = value[0] if name == "lane_rules" else value  # type: ignore[index]
        assert {**kept, **wanted} == kept if isinstance(wanted, dict) else kept == wanted
    shown = (await api.get(endpoint)).json()
    assert {name: shown[name] for name in ("redact", "card_numbers", "lane")} == {
        "redact": ["/customer/email"],
        "card_numbers": "mask",
        "lane": "bulk",
    }
    versions = [one.version for one in await platform.records(endpoint) if one]
    assert versions == [1, 2, 3]
    assert (await platform.audited())[-1] == ("ann", "endpoint.changed", {"fields": "rate"})


async def test_another_version_than_expected_is_412(api: httpx.AsyncClient, platform: Any) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    etag = (await api.get(endpoint)).headers["etag"]
    assert etag == '"1"'
    results = [
        (await api.patch(endpoint, json={"lane": lane}, headers={"if-match": etag})).status_code
        for lane in ("bulk", "critical")
    ]
    assert results == [200, 412]
    assert (await api.get(endpoint)).json()["lane"] == "bulk"
    stale = [
        await api.post(f"{endpoint}/pause", headers={"if-match": etag}),
        await api.post(f"{endpoint}/rotate-url", json={}, headers={"if-match": etag}),
        await api.post(f"{endpoint}/secrets", json={"value": "x"}, headers={"if-match": "nonsense"}),
        await api.delete(f"{endpoint}/secrets/k1", headers={"if-match": etag}),
        await api.delete(endpoint, headers={"if-match": etag}),
    ]
    assert [(one.status_code, one.json()["code"]) for one in stale] == [(412, "version_changed")] * 5
    assert (await api.delete(endpoint, headers={"if-match": '"2"'})).status_code == 204


async def test_a_second_endpoint_has_its_own_secret_or_the_connections(
    api: httpx.AsyncClient, platform: Any, database: Database, keyring: Keyring
) -> None:
    connection, first = await platform.connect(f"{CANARY}-1")
    path = f"/v1/connections/{connection}/endpoints"
    own = await api.post(path, json={"secret": f"{CANARY}-own", "lane": "bulk"}, headers={"idempotency-key": "e"})
    assert await api.post(path, json={"secret": f"{CANARY}-own", "lane": "bulk"}, headers={"idempotency-key": "e"})
    shared = await api.post(path, json={})
    for answer, secret in ((own, f"{CANARY}-own"), (shared, f"{CANARY}-1")):
        assert answer.status_code == 201, answer.text
        record = await platform.newest(answer.json()["id"])
        (key,) = record.secrets
        place = endpoint_secret_place("t1", record.endpoint, "k1")
        assert keyring.open(base64.b64decode(key.sealed), place) == secret
    assert (own.json()["lane"], shared.json()["lane"]) == ("bulk", "standard")
    assert len((await api.get(f"/v1/connections/{connection}")).json()["endpoints"]) == 3
    assert (await api.post(f"/v1/connections/{uuid4()}/endpoints", json={})).status_code == 404
    bad = await api.post(path, json={"secret": ""})
    assert [one["field"] for one in bad.json()["errors"]] == ["secret"]
    assert (await api.delete(first)).status_code == 204
    assert (await platform.records(first))[-1] is None
    assert (await api.get(first)).status_code == 404
    await api.delete(f"/v1/connections/{connection}")
    assert (await api.post(path, json={})).json()["code"] == "no_connection"
    assert (await api.get("/v1/endpoints")).json()["items"] == []
    assert not await rows(database.dsn, "SELECT 1 FROM endpoint_secrets UNION ALL SELECT 1 FROM endpoint_tokens")


async def test_the_list_has_filters_and_pages(api: httpx.AsyncClient, platform: Any) -> None:
    made = [
        await platform.connect(f"{CANARY}-1", tenant, f"a{number}") for tenant in ("t1", "t2") for number in range(2)
    ]
    await api.post(f"{made[0][1]}/pause")

    async def listed(**query: Any) -> list[str]:
        return [one["id"] for one in (await api.get("/v1/endpoints", params=query)).json()["items"]]

    assert len(await listed(tenant="t1", provider="payer")) == 2
    assert await listed(state="paused") == [made[0][1].rpartition("/")[2]]
    assert await listed(connection=made[3][0]) == [made[3][1].rpartition("/")[2]]
    assert await listed(provider="texter") == []
    first = (await api.get("/v1/endpoints", params={"limit": 3})).json()
    rest = (await api.get("/v1/endpoints", params={"limit": 3, "after": first["next"]})).json()
    assert sorted(one["id"] for one in first["items"] + rest["items"]) == sorted(await listed())
    for query in ("state=gone", "connection=x", "colour=red"):
        assert (await api.get(f"/v1/endpoints?{query}")).status_code == 422


async def test_no_secret_comes_out_of_anything(
    api: httpx.AsyncClient,
    platform: Any,
    database: Database,
    capfd: pytest.CaptureFixture[str],
    republisher: Republisher,
) -> None:
    connection, endpoint = await platform.connect(f"{CANARY}-1")
    headers = {"idempotency-key": "k"}
    answers = [
        await api.post(f"{endpoint}/secrets", json={"value": f"{CANARY}-2"}, headers=headers),
        await api.post(f"{endpoint}/secrets", json={"value": f"{CANARY}-2"}, headers=headers),
        await rotate(api, endpoint, f"{CANARY}-2"),
        await rotate(api, endpoint, f"{CANARY}-3", overlap_h="soon"),
        await api.post(f"/v1/connections/{connection}/endpoints", json={"secret": f"{CANARY}-9"}),
        await api.get(endpoint),
        await api.get("/v1/endpoints"),
        await api.patch(endpoint, json={"secret": CANARY}),
    ]
    assert [one.status_code for one in answers] == [201, 201, 422, 422, 201, 200, 200, 422]
    await republisher.publish_batch()
    tables = ("outbox", "endpoints", "endpoint_secrets", "endpoint_tokens", "idempotent_answers")
    stored = [await rows(database.dsn, f"SELECT t::text FROM {table} t") for table in tables]
    captured = capfd.readouterr()
    for text in (*(one.text for one in answers), str(stored), captured.out, captured.err):
        assert CANARY not in text
        assert CANARY.encode().hex() not in text
    assert "sealed" not in answers[5].text


async def test_who_may_do_what(api: httpx.AsyncClient, platform: Any, issuer: LocalIssuer) -> None:
    _, endpoint = await platform.connect(f"{CANARY}-1")
    viewer = issuer.headers(Role.VIEWER)
    for path in ("/v1/endpoints", endpoint, "/v1/tenants", "/v1/tenants/t1"):
        assert (await api.get(path, headers={"authorization": ""})).status_code == 401
        assert (await api.get(path, headers=viewer)).status_code == 200
    writes = [
        ("PATCH", endpoint),
        ("DELETE", endpoint),
        ("POST", f"{endpoint}/secrets"),
        ("DELETE", f"{endpoint}/secrets/k1"),
        ("POST", f"{endpoint}/rotate-url"),
        ("POST", f"{endpoint}/pause"),
        ("POST", f"{endpoint}/resume"),
        ("POST", f"/v1/connections/{uuid4()}/endpoints"),
        ("PUT", "/v1/tenants/t1"),
    ]
    for method, path in writes:
        assert (await api.request(method, path, json={}, headers=viewer)).status_code == 403
        unknown = path.replace(endpoint, "/v1/endpoints/nobody")
        body = {"value": "x"} if path.endswith("secrets") else {}
        if "tenants" not in path:
            assert (await api.request(method, unknown, json=body)).status_code == 404


async def test_a_code_that_a_provider_posted_is_shown_to_operators_only_and_audited(
    platform: Any, keyring: Keyring, issuer: LocalIssuer, acts: Endpoints, clock: ManualClock
) -> None:
    codes = OfferedCodes(keyring)
    offered = EndpointCodeOffered(
        endpoint="ep-1",
        tenant="acme",
        provider="test",
        sealed=base64.b64encode(keyring.seal("code-canary", endpoint_code_place("acme", "ep-1"))).decode(),
        received_at=clock.now(),
    )
    envelope = Envelope(id="1", source="gateway", type=offered.TYPE, data=encode(offered))
    codes.apply("ep-1", envelope)
    codes.apply("ep-2", replace(envelope, data=encode(offered.model_copy(update={"endpoint": "ep-2"}))))
    routes = endpoint_routes(EndpointApi(platform.database, acts, clock, codes), issuer.verifier())
    async with api_client(routes, issuer.headers(Role.OPERATOR, subject="ann")) as client:
        shown = await client.get("/v1/endpoints/ep-1/code")
        moved = await client.get("/v1/endpoints/ep-2/code")
        refused = await client.get("/v1/endpoints/ep-1/code", headers=issuer.headers(Role.VIEWER))
    assert (shown.status_code, shown.json()["code"]) == (200, "code-canary")
    assert moved.status_code == 404, "a code sealed for another endpoint does not open"
    assert refused.status_code == 403
    assert "code-canary" not in repr(codes.newest("ep-1"))
    assert await platform.audited() == [("ann", "endpoint.code_shown", {})]
