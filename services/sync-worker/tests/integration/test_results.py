"""What a provider answered to a read: sealed wherever it lies, and opened for an operator whose look is audited."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from chassis.http.auth import Role
from chassis.testing.harness import rows
from contracts.events.orchestrator import operation_place
from contracts.ids import effect_key
from contracts.operations.money import Balances
from providers import registry
from providers.fixtures import api_cases
from providers.provider import Provider

pytestmark = [pytest.mark.asyncio, pytest.mark.integration, pytest.mark.usefixtures("fakes")]

SECRET = "canary-employee"
READ = "balance.read"


async def done(desk: Any, kit: Any, content: bytes) -> str:
    """Have an effect whose answer is handed on as it is; return its key."""
    command = desk.refund(await desk.refundable())
    answer = {"id": "re_1", "content": base64.b64encode(content).decode()}
    assert (await desk.run(command, kit.answered(200, answer))).status == "applied"
    key: str = command.effect_key
    return key


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"name": "%s", "sum": 12.50}' % SECRET.encode(), '{"name": "canary-employee", "sum": 12.50}'),
        (b"%PDF-1", '"JVBERi0x"'),
    ],
)
async def test_an_operator_reads_a_sealed_result_digit_for_digit_and_is_written_down(
    desk: Any, kit: Any, platform: Any, content: bytes, shown: str
) -> None:
    key = await done(desk, kit, content)
    answer = await platform.api.get(f"/v1/effects/{key}/result")
    assert answer.status_code == 200, answer.text
    assert f'"content":{shown}' in answer.text
    assert (answer.json()["provider_ref"], answer.json()["result"]["status"]) == ("re_1", "done")
    actor, action, detail = (await platform.audited())[-1]
    assert (actor, action, detail) == ("ann", "effect.result_read", {"operation": "payment.refund"})
    assert SECRET not in str(await rows(platform.database.dsn, "SELECT value FROM outbox"))


async def test_an_effect_is_explained_without_its_sealed_result(desk: Any, kit: Any, platform: Any) -> None:
    key = await done(desk, kit, b'{"name": "canary-employee"}')
    shown = (await platform.api.get(f"/v1/effects/{key}")).json()
    assert (shown["result"], shown["sealed_result"]) == ({"status": "done"}, True)
    assert f"patchbay effects result {key}" in shown["explanation"]


async def test_a_result_without_a_sealed_part_is_shown_as_it_is(desk: Any, kit: Any, platform: Any) -> None:
    command = desk.refund(await desk.refundable())
    await desk.run(command, kit.answered(200, {"id": "re_1"}))
    shown = (await platform.api.get(f"/v1/effects/{command.effect_key}")).json()
    assert (shown["sealed_result"], "sealed" in shown["explanation"]) == (False, False)
    assert (await platform.api.get(f"/v1/effects/{command.effect_key}/result")).json()["result"] == {"status": "done"}


async def test_what_has_no_result_says_whether_there_will_be_one(desk: Any, kit: Any, platform: Any) -> None:
    missing = await platform.api.get(f"/v1/effects/{effect_key('nobody', 'x', 'do')}/result")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    payment = await desk.refundable()
    command = desk.refund(payment)
    await desk.run(command, kit.unanswered)
    path = f"/v1/effects/{command.effect_key}/result"
    early = await platform.api.get(path)
    assert (early.status_code, early.json()["code"]) == (409, "no_result_yet")
    desk.saga = kit.new_id()
    refused = desk.refund(payment)
    await desk.run(refused, kit.answered(402, {"code": "charge_already_refunded"}))
    never = await platform.api.get(f"/v1/effects/{refused.effect_key}/result")
    assert (never.status_code, never.json()["code"]) == (409, "no_result")
    assert not [one for one in await platform.audited() if one[1] == "effect.result_read"]


async def test_a_result_that_no_key_opens_says_so_and_is_no_error_of_ours(
    desk: Any, kit: Any, keyring: Any, platform: Any
) -> None:
    key = await done(desk, kit, b"{}")
    moved = base64.b64encode(keyring.seal('{"content": "e30="}', operation_place("t1", "another"))).decode()
    async with desk.database.connection() as connection:
        await connection.execute("UPDATE effects SET result = jsonb_build_object('content', $1::text)", moved)
    answer = await platform.api.get(f"/v1/effects/{key}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "result_unreadable")


async def test_neither_viewers_nor_strangers_read_a_result(desk: Any, kit: Any, platform: Any, issuer: Any) -> None:
    key = await done(desk, kit, b"{}")
    for role in (Role.VIEWER, Role.SERVICE):
        answer = await platform.api.get(f"/v1/effects/{key}/result", headers=issuer.headers(role))
        assert answer.status_code == 403
    stranger = {"authorization": f"Bearer {issuer.token(Role.OPERATOR, tenants=['t2'])}"}
    assert (await platform.api.get(f"/v1/effects/{key}/result", headers=stranger)).status_code == 404


async def test_what_needs_a_person_says_what_to_do_first(desk: Any, kit: Any, platform: Any) -> None:
    command = desk.refund(await desk.refundable(kit.mute))
    await desk.run(command, kit.unanswered)
    await desk.run(desk.refund(command.payment_id, 2))
    told = (await platform.api.get(f"/v1/effects/{command.effect_key}")).json()["explanation"]
    assert told.startswith("needs you: ")
    assert f"patchbay effects settle {command.effect_key} --outcome" in told


def readers() -> list[Provider]:
    """Return the providers whose balances can be read with secrets alone."""
    found = registry.discover(registry.ROOT).values()
    return [one for one in found if one.manifest.operation(READ) and one.api.method().kind != "oauth2"]


@pytest.mark.parametrize("provider", readers(), ids=lambda one: one.slug)
async def test_balances_are_read_in_one_shape_and_lie_open_nowhere(
    desk: Any, fakes: dict[str, Provider], platform: Any, provider: Provider
) -> None:
    [case] = [one for one in api_cases(provider.folder) if one.operation_name == READ]
    fakes[provider.slug] = provider
    account = case.account
    await desk.connect(provider, account.account_ref, secrets=dict(account.secrets), options=dict(account.options))
    made = await platform.api.post(
        "/v1/operations", json={"operation": READ, "tenant": "t1", "provider": provider.slug}
    )
    assert made.status_code == 202, made.text
    key, (answer, _) = made.json()["key"], case.responses[0]
    desk.client.script = [answer]
    await desk.execute(key)
    shown = (await platform.api.get(f"/v1/effects/{key}")).json()
    assert (shown["state"], shown["sealed_result"], shown["result"]) == ("applied", True, {})
    balances = (await platform.api.get(f"/v1/effects/{key}/result")).json()["result"]["content"]["balances"]
    assert all(Balances.model_validate({"balances": balances}, strict=False).balances)
    names = {name for one in balances for name in one} - {"account", "currency"}
    assert names
    stored = str(await rows(platform.database.dsn, "SELECT result FROM effects"))
    published = str(await rows(platform.database.dsn, "SELECT value FROM outbox"))
    assert not [name for name in names if name in stored or name in published]
    assert all(isinstance(one[name], int) for one in balances for name in names & one.keys())
