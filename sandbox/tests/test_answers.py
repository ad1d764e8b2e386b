"""What vendors make of answers: deadlines, retries by their own schedules, Retry-After, stops and strikes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from chassis.testing.harness import until
from providers import registry
from providers.conformance import variants
from providers.manifest import Retries
from providers.provider import Provider
from providers.sdk import Secret
from sandbox.judging import DEADLINE_S, deadline_s, judge, waits_s
from sandbox.signing import fetches_keys

pytestmark = pytest.mark.asyncio

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
REPEATING = [one for one in SENDERS if waits_s(one.webhook.retries) and not fetches_keys(one, variants(one)[0])]
PATIENT = next(one for one in REPEATING if one.webhook.throttle == "retry" and not one.webhook.success_body)
STRICT = next(one for one in REPEATING if one.webhook.throttle == "punish" and not one.webhook.success_body)


def order(provider: Provider, url: str, **more: Any) -> dict[str, Any]:
    options = variants(provider)[0]
    secret = provider.verifier(options).generate().signing
    fixture = provider.fixtures()[0].name
    common = {"provider": provider.slug, "url": url, "secret": secret, "fixture": fixture, "options": options}
    return common | {"time_factor": 0} | more


async def send(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/_control/deliveries", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()["items"][0]
    return found


async def settled(client: httpx.AsyncClient, delivery: dict[str, Any]) -> dict[str, Any]:
    async def found() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await client.get(f"/_control/deliveries/{delivery['id']}")).json()
        return None if shown["state"] == "retrying" else shown

    shown: dict[str, Any] = await until(found, "the vendor gave up or was content", 10)
    return shown


async def test_refused_delivery_is_repeated_until_it_is_taken(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [503, 302, 404]
    first = await send(client, order(PATIENT, receiver.url, retry=True))
    assert first["state"] == "retrying"
    assert first["next_at"] is not None
    shown = await settled(client, first)
    assert (shown["state"], shown["next_at"]) == ("delivered", None)
    seen = [(one["status"], one["verdict"]) for one in shown["attempts"]]
    assert seen == [(503, "later"), (302, "refused"), (404, "refused"), (200, "delivered")]


async def test_every_vendor_gives_up_when_its_schedule_ends(client: httpx.AsyncClient, receiver: Any) -> None:
    for provider in REPEATING:
        receiver.got.clear()
        receiver.answers = [500] * 100
        shown = await settled(client, await send(client, order(provider, receiver.url, retry=True)))
        assert (shown["state"], shown["next_at"]) == ("failed", None), provider.slug
        assert len(receiver.got) == len(shown["attempts"]) == len(waits_s(provider.webhook.retries)) + 1


async def test_without_retry_a_refusal_is_final(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [401]
    assert (await send(client, order(PATIENT, receiver.url)))["state"] == "failed"
    assert len(receiver.got) == 1


async def test_retry_after_is_waited_for_in_real_time(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [429]
    receiver.headers = {"retry-after": "1"}
    started = time.monotonic()
    shown = await settled(client, await send(client, order(PATIENT, receiver.url, retry=True)))
    assert shown["state"] == "delivered"
    assert time.monotonic() - started >= 1
    assert shown["attempts"][0]["retry_after_s"] == 1


async def test_a_stop_ends_the_delivery(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [PATIENT.webhook.stop_status]
    shown = await send(client, order(PATIENT, receiver.url, retry=True))
    assert (shown["state"], shown["attempts"][0]["verdict"]) == ("stopped", "stopped")


async def test_an_answer_after_the_deadline_is_none(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.delay_s = 0.3
    shown = await send(client, order(PATIENT, receiver.url, deadline_ms=50))
    (attempt,) = shown["attempts"]
    assert (shown["state"], attempt["status"], attempt["error"]) == ("failed", None, "deadline")
    assert 50 <= attempt["latency_ms"] < 300


async def test_a_vendor_that_punishes_counts_failures_and_gives_up_an_endpoint(
    client: httpx.AsyncClient, receiver: Any
) -> None:
    receiver.answers = [503, 503, 200, 503, 503, 503]
    for _ in range(3):
        await send(client, order(STRICT, receiver.url, disable_after=3))
    (standing,) = (await client.get("/_control/standings")).json()["items"]
    assert standing == {
        "provider": STRICT.slug,
        "url": receiver.url,
        "strikes": 0,
        "strikes_in_all": 2,
        "disabled": False,
    }
    for _ in range(3):
        await send(client, order(STRICT, receiver.url, disable_after=3))
    (standing,) = (await client.get("/_control/standings")).json()["items"]
    assert (standing["strikes"], standing["disabled"]) == (3, True)
    assert (await send(client, order(STRICT, receiver.url)))["state"] == "withheld"
    assert len(receiver.got) == 6
    assert (await client.delete("/_control/standings", params={"url": receiver.url})).status_code == 204
    assert (await send(client, order(STRICT, receiver.url)))["state"] == "delivered"


async def test_a_vendor_that_only_retries_keeps_no_grudge(client: httpx.AsyncClient, receiver: Any) -> None:
    receiver.answers = [503] * 3
    for _ in range(3):
        await send(client, order(PATIENT, receiver.url, disable_after=1))
    assert (await client.get("/_control/standings")).json()["items"] == []
    assert len(receiver.got) == 3


async def test_a_vendor_that_wants_a_body_is_not_content_with_a_status(
    client: httpx.AsyncClient, receiver: Any
) -> None:
    wanting = next(one for one in SENDERS if one.webhook.success_body)
    first = await send(client, order(wanting, receiver.url))
    receiver.body = wanting.webhook.success_body
    second = await send(client, order(wanting, receiver.url))
    assert (first["state"], second["state"]) == ("failed", "delivered")
    assert "body" in first["attempts"][0]["why"]


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        (None, []),
        (Retries(schedule_s=(), horizon_h=0), []),
        (Retries(schedule_s=(0, 5), horizon_h=1), [0, 5]),
        (Retries(horizon_h=0.2), [60, 120, 240]),
    ],
)
async def test_waits_follow_the_manifest(retries: Retries | None, expected: list[float]) -> None:
    assert waits_s(retries) == expected


async def test_deadlines_follow_the_manifest() -> None:
    for provider in SENDERS:
        published = provider.webhook.ack_deadline_ms
        assert deadline_s(provider.webhook) == (DEADLINE_S if published is None else published / 1000)


@pytest.mark.parametrize("asked", ["soon", "-1", "1e9", "9" * 30, "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_is_no_number_is_not_waited_for(asked: str) -> None:
    found = judge(PATIENT.webhook, httpx.Response(503, headers={"retry-after": asked}))
    assert (found.verdict, found.retry_after_s) == ("later", 0)
    assert judge(STRICT.webhook, httpx.Response(503, headers={"retry-after": "7"})).retry_after_s == 0


TELLING = [one for one in REPEATING if one.webhook.retries and one.webhook.retries.headers]


@pytest.mark.parametrize("provider", TELLING, ids=lambda one: one.slug)
async def test_a_repeat_says_what_its_vendor_says_of_one(
    client: httpx.AsyncClient, receiver: Any, provider: Provider
) -> None:
    """Whatever it adds, the repeat is the same event, signed as well as the first."""
    retries = provider.webhook.retries
    assert retries is not None
    receiver.answers = [500, 404]
    ordered = order(provider, receiver.url, retry=True)
    shown = await settled(client, await send(client, ordered))
    assert shown["state"] == "delivered"
    first_at = datetime.fromisoformat(shown["attempts"][0]["at"])
    names = [name.lower() for name in retries.headers]
    said = [{name: request.header(name) for name in names} for request in receiver.got]
    for number, headers in enumerate(said[1:], start=1):
        wanted = retries.headers_of(number, first_at, "status")
        assert headers == {name.lower(): text for name, text in wanted.items()}
    assert said[0] != said[1] != said[2]
    secret = Secret("k1", ordered["secret"])
    for request in receiver.got:
        provider.verifier(ordered["options"]).verify(request, [secret], datetime.now(UTC))
    events = [provider.split(request, ordered["options"])[0].event_id for request in receiver.got]
    assert len(set(events)) == 1


async def test_a_repeat_gives_the_reason_of_the_attempt_before_it(client: httpx.AsyncClient, receiver: Any) -> None:
    reasoned = next(one for one in TELLING if one.webhook.retries and one.webhook.retries.reasons)
    retries = reasoned.webhook.retries
    assert retries is not None
    assert retries.reasons is not None
    name = next(name for name, text in retries.headers.items() if "{reason}" in text)
    receiver.delay_s = 0.2
    body = order(reasoned, receiver.url, retry=True, deadline_ms=50)
    first = await send(client, body)
    await until(lambda: _repeated(receiver), "the first repeat")
    receiver.delay_s = 0
    await settled(client, first)
    assert receiver.got[1].header(name) == retries.reasons.timeout


async def _repeated(receiver: Any) -> bool:
    return len(receiver.got) >= 2


PARTICULAR = [one for one in SENDERS if one.webhook.answers]


@pytest.mark.parametrize("provider", PARTICULAR, ids=lambda one: one.slug)
async def test_an_event_that_wants_an_answer_of_its_own_takes_no_other(
    client: httpx.AsyncClient, receiver: Any, provider: Provider
) -> None:
    options = variants(provider)[0]
    asking = [
        (one.name, answer)
        for one in provider.fixtures()
        for item in provider.split(one.request({}), options)
        if (answer := provider.webhook.answer_for(item.event_type)) is not None
    ]
    assert asking
    for fixture, answer in asking:
        for body, verdict in (
            ("", "refused"),
            ('{"type": "none"}', "refused"),
            (json.dumps(answer.json_body), "delivered"),
        ):
            receiver.body = body
            shown = await send(client, order(provider, receiver.url) | {"fixture": fixture})
            assert shown["attempts"][0]["verdict"] == verdict, (fixture, body)
