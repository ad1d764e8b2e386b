"""A person authorises a connection at a provider that the sandbox plays, and each way in which that goes wrong."""

from __future__ import annotations

from typing import Any

import pytest

from chassis.db.database import Database
from chassis.testing.harness import rows
from contracts.codec import decode
from contracts.events.platform import AuditRecorded
from contracts.topics import PLATFORM_AUDIT

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

CANARY = "canary-7d21"


async def audited(database: Database) -> list[tuple[str, str, str]]:
    found = await rows(database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", PLATFORM_AUDIT.name)
    entries = [decode(AuditRecorded, row["value"]) for row in found]
    return [(one.actor, one.action, one.detail.get("mode", "")) for one in entries if one.action[:10] == "connection"]


async def test_a_person_authorises_and_the_account_comes_from_the_answer(oauth: Any) -> None:
    made = await oauth.create()
    assert (made["state"], made["mode"], made["account_ref"], made["method"]) == ("authorizing", "sandbox", "", "oauth")
    url = await oauth.begin(made["id"])
    assert "/acme/oauth2/authorize?" in url
    answer = await oauth.callback(await oauth.approve(url, account="merchant-1"))
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["id"], shown["state"], shown["account_ref"]) == (made["id"], "live", "merchant-1")
    account = await oauth.parts.tokens.account(await oauth.connect(account="merchant-2"))
    assert (account.account_ref, account.method, account.mode) == ("merchant-2", "oauth", "sandbox")
    assert oauth.sandbox.oauth.accepts("acme", account.secrets["access_token"])
    assert "refresh_token" not in account.secrets
    assert (await audited(oauth.database))[:3] == [
        ("ann", "connection.created", "sandbox"),
        ("ann", "connection.authorisation_begun", "sandbox"),
        ("ann", "connection.authorised", "sandbox"),
    ]


async def test_authorising_again_finds_the_connection_by_its_account(oauth: Any) -> None:
    first = await oauth.connect(account="merchant-1")
    again = await oauth.callback(await oauth.approve(await oauth.begin(str(first)), account="merchant-1"))
    assert again.json()["id"] == str(first)
    # Somebody who does not know of it makes a new one: the older one gets the tokens, the new one is over.
    newer = await oauth.create()
    answer = await oauth.callback(await oauth.approve(await oauth.begin(newer["id"]), account="merchant-1"))
    assert (answer.json()["id"], answer.json()["state"]) == (str(first), "live")
    assert (await oauth.state(newer["id"]))["state"] == "revoked"
    listed = (await oauth.api.get("/v1/connections", params={"state": "live"})).json()["items"]
    assert [(one["id"], one["mode"]) for one in listed] == [(str(first), "sandbox")]
    account = await oauth.parts.tokens.account(first)
    assert oauth.sandbox.oauth.accepts("acme", account.secrets["access_token"])


async def test_another_account_cannot_slip_into_a_connection(oauth: Any) -> None:
    known = await oauth.connect(account="merchant-1")
    before = await oauth.parts.tokens.account(known)
    answer = await oauth.callback(await oauth.approve(await oauth.begin(str(known)), account="merchant-2"))
    assert (answer.status_code, answer.json()["code"]) == (400, "other_account")
    oauth.parts.tokens.forget(known)
    assert await oauth.parts.tokens.account(known) == before


async def test_a_missing_scope_limits_the_connection_and_is_named(oauth: Any) -> None:
    oauth.behave(scopes=("MERCHANT_PROFILE_READ", "PAYMENTS_READ"))
    known = await oauth.connect()
    shown = await oauth.state(known)
    assert (shown["state"], shown["missing_scopes"]) == ("limited", ["PAYMENTS_WRITE"])
    assert shown["reason"] == "scope missing: PAYMENTS_WRITE"
    oauth.behave()
    await oauth.callback(await oauth.approve(await oauth.begin(str(known))))
    shown = await oauth.state(known)
    assert (shown["state"], shown["missing_scopes"], shown["reason"]) == ("live", [], "")


async def test_a_state_is_used_once(oauth: Any) -> None:
    made = await oauth.create()
    back = await oauth.approve(await oauth.begin(made["id"]))
    assert (await oauth.callback(back)).status_code == 200
    again = await oauth.callback(back)
    assert (again.status_code, again.json()["code"]) == (400, "unknown_state")
    assert again.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"state": "made-up"}, "unknown_state"),
        ({"code": "made-up"}, "code_refused"),
        ({"code": ""}, "missing_code"),
        ({"error": "access_denied"}, "authorisation_denied"),
    ],
)
async def test_what_comes_back_wrong_kills_the_flow(oauth: Any, wrong: dict[str, str], code: str) -> None:
    made = await oauth.create()
    back = await oauth.approve(await oauth.begin(made["id"]))
    answer = await oauth.callback(back | wrong)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    if "state" not in wrong:
        assert (await oauth.callback(back)).json()["code"] == "unknown_state", "the flow is dead"
    assert (await oauth.state(made["id"]))["state"] == "authorizing"


async def test_a_reused_code_an_expired_flow_and_another_redirect_are_refused(oauth: Any) -> None:
    first, second, third = [await oauth.create() for _ in range(3)]
    used = await oauth.approve(await oauth.begin(first["id"]), account="m1")
    assert (await oauth.callback(used)).status_code == 200
    fresh = await oauth.approve(await oauth.begin(second["id"]), account="m2")
    answer = await oauth.callback(fresh | {"code": used["code"]})
    assert (answer.status_code, answer.json()["code"]) == (400, "code_refused")
    late = await oauth.approve(await oauth.begin(third["id"]), account="m3")
    async with oauth.database.connection() as connection:
        await connection.execute("UPDATE oauth_flows SET expires_at = clock_timestamp() - interval '1 s'")
    answer = await oauth.callback(late)
    assert (answer.status_code, answer.json()["code"]) == (400, "flow_expired")
    moved = await oauth.approve(await oauth.begin(third["id"]), account="m3")
    async with oauth.database.connection() as connection:
        await connection.execute("UPDATE oauth_flows SET redirect_uri = 'https://elsewhere.test/cb'")
    answer = await oauth.callback(moved)
    assert (answer.status_code, answer.json()["code"]) == (400, "redirect_mismatch")
    assert (await oauth.callback(moved)).json()["code"] == "unknown_state"


async def test_a_provider_that_does_not_answer_kills_the_flow_too(oauth: Any) -> None:
    made = await oauth.create()
    back = await oauth.approve(await oauth.begin(made["id"]))
    oauth.behave(fail_calls=1)
    answer = await oauth.callback(back)
    assert (answer.status_code, answer.json()["code"]) == (502, "token_endpoint_unavailable")
    assert (await oauth.callback(back)).status_code == 400


async def test_only_a_connection_that_asks_a_person_can_be_authorised(oauth: Any) -> None:
    secrets = {"webhook": "fake-signing-key", "access_token": "fake-token"}
    made = await oauth.create(method="access_token", account_ref="m1", secrets=secrets)
    assert made["state"] == "live"
    answer = await oauth.api.post(f"/v1/connections/{made['id']}/authorize")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_authorisation")
    revoked = await oauth.create()
    await oauth.api.delete(f"/v1/connections/{revoked['id']}")
    answer = await oauth.api.post(f"/v1/connections/{revoked['id']}/authorize")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_connection")


async def test_live_and_sandbox_are_two_connections_of_one_account(oauth: Any) -> None:
    secrets = {"webhook": "fake-signing-key", "access_token": "fake-token"}
    fixed: dict[str, Any] = {"method": "access_token", "account_ref": "m1", "secrets": secrets}
    live, sandbox = await oauth.create(mode="live", **fixed), await oauth.create(**fixed)
    assert live["id"] != sandbox["id"]
    body = {"provider": "acme", "tenant": "t1", "mode": "sandbox"} | fixed
    assert (await oauth.api.post("/v1/connections", json=body)).json()["code"] == "connection_exists"
    for mode, known in (("live", live), ("sandbox", sandbox)):
        (listed,) = (await oauth.api.get("/v1/connections", params={"mode": mode})).json()["items"]
        assert (listed["id"], listed["mode"]) == (known["id"], mode)
    assert {mode for _, _, mode in await audited(oauth.database)} == {"live", "sandbox"}


async def test_no_secret_of_a_flow_is_stored_or_said(oauth: Any, capfd: pytest.CaptureFixture[str]) -> None:
    made = await oauth.create()
    url = await oauth.begin(made["id"])
    back = await oauth.approve(url)
    answers = [await oauth.callback(back | {"code": f"{CANARY}-code"}), await oauth.callback(back)]
    back = await oauth.approve(await oauth.begin(made["id"]))
    answers.append(await oauth.callback(back))
    account = await oauth.parts.tokens.account(await oauth.connect())
    answers += [await oauth.api.get(f"/v1/connections/{made['id']}"), await oauth.api.get("/v1/connections")]
    async with oauth.database.connection() as connection:
        tables = ("outbox", "connections", "credentials", "oauth_flows", "idempotent_answers")
        stored = str([await connection.fetch(f"SELECT t::text FROM {table} t") for table in tables])
    captured = capfd.readouterr()
    secrets = (f"{CANARY}-code", back["state"], back["code"], account.secrets["access_token"], f"{CANARY}-app")
    for text in (stored, captured.out, captured.err, *(one.text for one in answers)):
        for secret in secrets:
            assert secret not in text
            assert secret.encode().hex() not in text
