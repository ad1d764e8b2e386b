"""Connections that exist: tested, paused, given other options and secrets."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from contracts.codec import decode
from contracts.events.sync import EndpointConfigured
from contracts.topics import SYNC_ENDPOINTS
from providers.sdk import HttpResponse
from sync_worker.outbound.path import Result

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

STATIC = {"webhook": "fake-signing-key", "access_token": "fake-token"}


async def static(oauth: Any, **fields: Any) -> str:
    made = await oauth.create(**({"method": "access_token", "account_ref": "m1", "secrets": STATIC} | fields))
    path: str = f"/v1/connections/{made['id']}"
    return path


async def test_a_test_makes_the_cheap_read_and_is_remembered(oauth: Any) -> None:
    path = await static(oauth)
    oauth.way.results = [Result("success", response=HttpResponse(200, {}, {})), Result("unclear")]
    answer = await oauth.api.post(f"{path}/test")
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("mode", "outcome", "status")} == {
        "mode": "sandbox",
        "outcome": "success",
        "status": 200,
    }
    assert oauth.way.sent[0].path == "/v2/locations"
    before = (await oauth.api.get(path)).json()
    assert (before["last_test"]["outcome"], before["version"]) == ("success", 1)
    await oauth.api.post(f"{path}/test")
    assert (await oauth.api.get(path)).json()["last_test"]["status"] == 0


async def test_a_connection_that_waits_for_a_person_cannot_be_tested(oauth: Any) -> None:
    made = await oauth.create()
    answer = await oauth.api.post(f"/v1/connections/{made['id']}/test")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_connection")
    assert (await oauth.api.post(f"/v1/connections/{uuid4()}/test")).status_code == 404


async def test_pause_and_resume_with_the_version_that_was_seen(oauth: Any) -> None:
    path = await static(oauth)
    seen = (await oauth.api.get(path)).headers["etag"]
    paused = await oauth.api.patch(path, json={"paused": True}, headers={"if-match": seen})
    assert (paused.status_code, paused.json()["state"], paused.json()["version"]) == (200, "paused", 2)
    stale = await oauth.api.patch(path, json={"paused": False}, headers={"if-match": seen})
    assert (stale.status_code, stale.json()["code"]) == (412, "version_changed")
    again = await oauth.api.patch(path, json={"paused": True})
    assert again.json()["version"] == 2, "nothing changed"
    resumed = await oauth.api.patch(path, json={"paused": False})
    assert (resumed.json()["state"], resumed.json()["reason"]) == ("live", "")
    authorising = await oauth.create()
    answer = await oauth.api.patch(f"/v1/connections/{authorising['id']}", json={"paused": True})
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


async def test_options_are_checked_and_reach_the_endpoints(oauth: Any, acts: Any) -> None:
    path = await static(oauth)
    answer = await oauth.api.patch(path, json={"options": {"idempotency_lifetime_h": "12"}})
    assert answer.json()["options"]["idempotency_lifetime_h"] == "12"
    async with oauth.database.connection() as connection:
        due = await connection.fetch("SELECT id FROM endpoints WHERE republish_at IS NOT NULL")
    async with oauth.database.unit_of_work() as uow:
        await acts.publish(uow, await acts.open(uow, due[0]["id"]))
    async with oauth.database.connection() as connection:
        query = "SELECT value FROM outbox WHERE topic = $1 ORDER BY xid, id"
        newest = (await connection.fetch(query, SYNC_ENDPOINTS.name))[-1]
    assert decode(EndpointConfigured, newest["value"]).options["idempotency_lifetime_h"] == "12"
    for body, field in (
        ({"options": {"nobody": "x"}}, "options.nobody"),
        ({"options": {"idempotency_lifetime_h": "soon"}}, "options.idempotency_lifetime_h"),
        ({"colour": "red"}, "colour"),
    ):
        refused = await oauth.api.patch(path, json=body)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


async def test_secrets_get_a_next_version_and_the_old_text_is_gone(oauth: Any) -> None:
    path = await static(oauth)
    put = {"secrets": {"access_token": "fake-token-2"}}
    answers = [await oauth.api.put(f"{path}/credentials", json=put, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert [one.json()["credentials"] for one in answers] == [{"access_token": 2}] * 2
    async with oauth.database.connection() as connection:
        query = "SELECT version, state, sealed FROM credentials WHERE kind = 'access_token' ORDER BY version"
        rows = [(one["version"], one["state"], bool(one["sealed"])) for one in await connection.fetch(query)]
    assert rows == [(1, "revoked", False), (2, "active", True)]
    for secrets, field in (
        ({"webhook": "w"}, "secrets.webhook"),
        ({"client_id": "c"}, "secrets.client_id"),
        ({"nobody": "c"}, "secrets.nobody"),
        ({}, "secrets"),
    ):
        refused = await oauth.api.put(f"{path}/credentials", json={"secrets": secrets})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert (await oauth.api.delete(path)).status_code == 204
    gone = await oauth.api.put(f"{path}/credentials", json=put)
    assert (gone.status_code, gone.json()["code"]) == (409, "no_connection")


async def test_a_new_secret_heals_a_connection_that_needs_one(oauth: Any) -> None:
    path = await static(oauth)
    await oauth.parts.tokens.needs_reauth(path.rpartition("/")[2], "the provider refuses the credential")
    shown = (await oauth.api.get(path)).json()
    assert (shown["state"], shown["reason"]) == ("needs_reauth", "the provider refuses the credential")
    answer = await oauth.api.put(f"{path}/credentials", json={"secrets": {"access_token": "fake-token-2"}})
    assert (answer.json()["state"], answer.json()["reason"]) == ("live", "")


async def test_modes_have_their_own_place(oauth: Any) -> None:
    body = {"provider": "liveonly", "tenant": "t1", "account_ref": "o1", "mode": "sandbox"}
    secrets = {"webhook": "fake-signing-key", "access_token": "fake-token"}
    answer = await oauth.api.post("/v1/connections", json=body | {"secrets": secrets})
    assert (answer.status_code, answer.json()["code"]) == (422, "no_sandbox")
    for mode in ("test", ""):
        answer = await oauth.api.get("/v1/connections", params={"mode": mode})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "mode")
