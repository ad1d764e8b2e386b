"""Tokens that end: one flight in the fleet, one family, whatever is slow, lost, stopped or refused."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from chassis.testing.harness import until
from contracts.errors import Terminal, Transient
from sync_worker.connections.refresh import Refresher, Timing
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.repository import credentials

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

CANARY = "canary-7d21"


async def row(oauth: Any, connection: UUID) -> Any:
    async with oauth.database.connection() as database:
        (tokens,) = [one for one in await credentials.active(database, connection) if one.kind == credentials.OAUTH]
    return tokens


def families(oauth: Any, slug: str = "acme") -> list[Any]:
    return [one for one in oauth.sandbox.oauth.families if one.provider == slug]


async def test_two_hundred_callers_of_a_fleet_one_refresh(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    oauth.behave(delay_ms=500)
    fleet = [oauth.parts, *(oauth.another() for _ in range(3))]
    accounts = await asyncio.gather(*(fleet[n % 4].tokens.account(connection) for n in range(200)))
    (family,) = families(oauth)
    assert (family.refreshes, family.reuses, family.dead) == (1, 0, False)
    assert len({one.secrets["access_token"] for one in accounts}) == 1
    assert oauth.sandbox.oauth.accepts("acme", accounts[0].secrets["access_token"])
    assert (await oauth.state(connection))["state"] == "live"


async def test_a_lost_answer_costs_neither_the_family_nor_a_person(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    oauth.behave(delay_ms=200, lose_answers=1, grace="until_used")
    fleet = [oauth.parts, *(oauth.another() for _ in range(3))]
    accounts = await asyncio.gather(*(fleet[n % 4].tokens.account(connection) for n in range(200)))
    (family,) = families(oauth)
    assert (family.refreshes, family.dead) == (2, False)
    assert oauth.sandbox.oauth.token_calls["acme"] == 3, "the code, the answer that was lost, and one more"
    assert {oauth.sandbox.oauth.accepts("acme", one.secrets["access_token"]) for one in accounts} == {True}
    assert (await oauth.state(connection))["state"] == "live"


async def test_a_failure_is_followed_by_silence_not_by_a_storm(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    oauth.behave(fail_calls=5)
    before = oauth.sandbox.oauth.token_calls["acme"]
    waits = [oauth.parts.tokens.account(connection, wait_s=0.2) for _ in range(50)]
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(one) for one in results} == {Transient}
    assert oauth.sandbox.oauth.token_calls["acme"] == before + 1
    assert (await oauth.state(connection))["state"] == "live"


async def test_a_stopped_holder_of_the_lease_is_fenced(oauth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    oauth.behave(grace="until_used")
    stopped, other = oauth.another(), oauth.another()
    answered, go_on = asyncio.Event(), asyncio.Event()
    post = TokenEndpoint.post

    async def stop_after_the_answer(self: TokenEndpoint, *args: Any, **kwargs: Any) -> Any:
        answer = await post(self, *args, **kwargs)
        if self is stopped.endpoint:
            answered.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(TokenEndpoint, "post", stop_after_the_answer)
    slow = asyncio.create_task(stopped.tokens.account(connection))
    await answered.wait()
    with pytest.raises(Transient):
        await other.tokens.account(connection, wait_s=0.2)
    async with oauth.database.connection() as database:
        await database.execute("UPDATE credentials SET lease_until = clock_timestamp() - interval '1 s'")
    taken_over = await other.tokens.account(connection)
    version = (await row(oauth, connection)).version
    go_on.set()
    woken = await slow
    assert woken.secrets == taken_over.secrets, "the token that the stopped one had got is dropped"
    assert (await row(oauth, connection)).version == version
    (family,) = families(oauth)
    assert not family.dead
    assert oauth.sandbox.oauth.accepts("acme", woken.secrets["access_token"])


async def test_a_process_that_slept_past_its_deadline_sends_nothing(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    before = oauth.sandbox.oauth.token_calls["acme"]
    parts = oauth.parts
    late = Refresher(
        oauth.database,
        parts.vault,
        parts.endpoint,
        oauth.sandbox.world.clock,
        owner="late",
        timing=Timing(deadline_s=-1.0),
    )
    assert await late.attempt(connection, (await row(oauth, connection)).version) == "failed"
    assert oauth.sandbox.oauth.token_calls["acme"] == before


async def test_a_refusal_asks_for_a_person_once_and_authorising_again_heals(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    (family,) = families(oauth)
    family.dead = True
    with pytest.raises(Terminal) as error:
        await oauth.parts.tokens.account(connection)
    assert error.value.code == "needs_reauth"
    shown = await oauth.state(connection)
    assert (shown["state"], shown["reason"]) == ("needs_reauth", "invalid_grant")
    calls = oauth.sandbox.oauth.token_calls["acme"]
    with pytest.raises(Terminal):
        await oauth.parts.tokens.account(connection)
    assert await oauth.parts.tokens.refresh_due() == 0
    assert oauth.sandbox.oauth.token_calls["acme"] == calls
    answer = await oauth.callback(await oauth.approve(await oauth.begin(str(connection))))
    assert (answer.json()["id"], answer.json()["state"]) == (str(connection), "live")
    account = await oauth.parts.tokens.account(connection)
    assert oauth.sandbox.oauth.accepts("acme", account.secrets["access_token"])


async def test_an_invalid_grant_adopts_what_another_has_stored(oauth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    post = TokenEndpoint.post
    slow, quick = oauth.another(), oauth.another()

    async def overtaken(self: TokenEndpoint, *args: Any, **kwargs: Any) -> Any:
        if self is slow.endpoint:
            async with oauth.database.connection() as database:
                await database.execute("UPDATE credentials SET lease_until = clock_timestamp() - interval '1 s'")
            await quick.tokens.account(connection)
            return 400, {"error": "invalid_grant"}
        return await post(self, *args, **kwargs)

    monkeypatch.setattr(TokenEndpoint, "post", overtaken)
    account = await slow.tokens.account(connection)
    assert account == await quick.tokens.account(connection)
    assert (await oauth.state(connection))["state"] == "live"
    assert families(oauth)[0].refreshes == 1


async def test_tokens_are_refreshed_before_they_end(oauth: Any) -> None:
    connection = await oauth.connect()
    held = await oauth.parts.tokens.account(connection)
    assert await oauth.parts.tokens.refresh_due() == 0
    async with oauth.database.connection() as database:
        await database.execute("UPDATE credentials SET refresh_after = clock_timestamp() WHERE kind = 'oauth'")
    assert await oauth.parts.tokens.refresh_due() == 1
    newer = await oauth.parts.tokens.account(connection)
    assert newer.version == held.version + 1
    assert await oauth.parts.tokens.refresh_due() == 0
    tokens = await row(oauth, connection)
    daily = (tokens.refresh_after - tokens.expires_at).total_seconds()
    assert daily < 0, "the sandbox's tokens live an hour, so the margin counts and not the day"


async def test_a_token_that_only_a_person_can_renew_is_used_to_its_end(oauth: Any) -> None:
    connection = await oauth.connect("endless")
    assert (await oauth.parts.tokens.account(connection)).secrets["access_token"]
    assert await oauth.parts.tokens.refresh_due() == 0
    assert (await row(oauth, connection)).refresh_after is None
    await oauth.end_tokens(connection)
    with pytest.raises(Terminal):
        await oauth.parts.tokens.account(connection)
    assert (await oauth.state(connection))["reason"] == "token_expired"


async def test_a_token_that_no_key_opens_is_no_reason_to_ask_a_person(oauth: Any) -> None:
    connection = await oauth.connect()
    await oauth.end_tokens(connection)
    async with oauth.database.connection() as database:
        await database.execute("UPDATE credentials SET sealed = sealed || '\\x00' WHERE kind = 'oauth'")
    with pytest.raises(Transient):
        await oauth.parts.tokens.account(connection, wait_s=0.2)
    assert (await oauth.state(connection))["state"] == "live"


async def test_a_refused_token_is_renewed_once_for_all(oauth: Any) -> None:
    connection = await oauth.connect()
    refused = await oauth.parts.tokens.account(connection)
    oauth.sandbox.oauth.expire("acme")
    renewed = await asyncio.gather(*(oauth.parts.tokens.renew(connection, refused) for _ in range(20)))
    assert {one.version for one in renewed} == {refused.version + 1}
    assert families(oauth)[0].refreshes == 1
    await oauth.parts.tokens.needs_reauth(connection, "the renewed token was refused")
    with pytest.raises(Terminal):
        await oauth.parts.tokens.account(connection)


async def test_a_secret_that_cannot_be_renewed_says_so(oauth: Any) -> None:
    secrets = {"webhook": "fake-signing-key", "access_token": "fake-token"}
    made = await oauth.create(method="access_token", account_ref="m1", secrets=secrets)
    account = await oauth.parts.tokens.account(UUID(made["id"]))
    assert account.secrets["access_token"] == "fake-token"
    with pytest.raises(Terminal) as error:
        await oauth.parts.tokens.renew(UUID(made["id"]), account)
    assert error.value.code == "credential_refused"
    put = {"secrets": {"access_token": "fake-token-2"}}
    answer = await oauth.api.put(f"/v1/connections/{made['id']}/credentials", json=put)
    assert answer.json()["credentials"] == {"access_token": 2}
    renewed = await oauth.parts.tokens.renew(UUID(made["id"]), account)
    assert renewed.secrets["access_token"] == "fake-token-2"


async def test_a_paused_connection_is_not_called_within_a_moment_elsewhere(oauth: Any) -> None:
    connection = await oauth.connect()
    elsewhere = oauth.another()
    await elsewhere.tokens.account(connection)
    assert (await oauth.api.patch(f"/v1/connections/{connection}", json={"paused": True})).status_code == 200
    with pytest.raises(Terminal):
        await oauth.parts.tokens.account(connection)

    async def noticed() -> bool:
        try:
            await elsewhere.tokens.account(connection)
        except Terminal:
            return True
        return False

    await until(noticed, "the pause")
    async with oauth.database.connection() as database:
        await database.execute("UPDATE credentials SET refresh_after = clock_timestamp() WHERE kind = 'oauth'")
    assert await oauth.parts.tokens.refresh_due() == 1, "tokens of a paused connection are kept alive"
    await oauth.api.patch(f"/v1/connections/{connection}", json={"paused": False})
    assert (await oauth.parts.tokens.account(connection)).account_ref == "sandbox-account"


async def test_no_token_is_stored_open_or_said(oauth: Any, capfd: pytest.CaptureFixture[str]) -> None:
    connection = await oauth.connect()
    tokens = {(await oauth.parts.tokens.account(connection)).secrets["access_token"]}
    async with oauth.database.connection() as database:
        pair = oauth.parts.vault.open_tokens((await credentials.active(database, connection))[1])
        tokens.add(pair.refresh_token)
    for conduct in ({"lose_answers": 1, "grace": "until_used"}, {"fail_calls": 1}, {}):
        oauth.behave(**conduct)
        await oauth.end_tokens(connection)
        tokens.add((await oauth.parts.tokens.account(connection)).secrets["access_token"])
    families(oauth)[0].dead = True
    await oauth.end_tokens(connection)
    with pytest.raises(Terminal) as error:
        await oauth.parts.tokens.account(connection)
    async with oauth.database.connection() as database:
        tables = ("outbox", "connections", "credentials", "idempotent_answers")
        stored = str([await database.fetch(f"SELECT t::text FROM {table} t") for table in tables])
    captured = capfd.readouterr()
    said = (stored, captured.out, captured.err, str(error.value), str(await oauth.state(connection)))
    assert len(tokens) == 5
    for text in said:
        for token in (*tokens, f"{CANARY}-app"):
            assert token not in text
            assert token.encode().hex() not in text
