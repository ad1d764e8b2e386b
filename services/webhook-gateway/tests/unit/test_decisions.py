"""What is decided about a genuine delivery: repeat, conflict, quarantine, shedding, tenant, URL, card numbers."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.gateway import AdmissionChanged, DeliveryRepeated
from contracts.events.sync import EndpointToken, TenantRoutes
from contracts.topics import GATEWAY_QUARANTINE, Lane
from providers import registry
from providers.provider import Provider
from webhook_gateway.ingest import HORIZON_MARGIN_H, UNKNOWN_HORIZON_H

pytestmark = pytest.mark.asyncio

WEBHOOKS = [p for p in registry.all_providers() if p.manifest.webhook]
# Their events name themselves in a signed JSON body.
PLAIN = [
    p
    for p in WEBHOOKS
    if p.webhook.items == "single"
    and p.webhook.formats == ("json",)
    and not p.webhook.handshakes
    and p.traits() is not None
    and p.traits().covers == "body"  # type: ignore[union-attr]
    and not p.traits().fetches  # type: ignore[union-attr]
    and p.webhook.event_id[0] == "body:/id"
]
PATIENT = next(p for p in PLAIN if p.webhook.comes_back)
PUNISHING = next(p for p in WEBHOOKS if not p.webhook.comes_back)
CARD = "4242424242424242"


def repeats(bench: Any) -> list[DeliveryRepeated]:
    found = [r for r in bench.publisher.records if r.envelope.type == DeliveryRepeated.TYPE]
    return [decode(DeliveryRepeated, record.envelope.data) for record in found]


def other_body(signer: Any) -> bytes:
    return json.dumps(json.loads(signer.fixture.body) | {"another": "word"}).encode()


def decide(bench: Any, *, emergency: bool = False, bulk_per_s: float | None = None) -> None:
    changed = AdmissionChanged(
        emergency=emergency, bulk_per_s=bulk_per_s, reason="test", by="tester", at=bench.clock.now()
    )
    bench.admission.apply("admission", Envelope(id="1", source="t", type=changed.TYPE, data=encode(changed)))


async def test_a_repeat_is_answered_yes_noted_and_not_written_again(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    for _ in range(3):
        assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status
    await bench.rejections.drain()
    (first,) = bench.accepted
    assert [(one.first_delivery, one.event) for one in repeats(bench)] == [
        (first.attributes.delivery, first.envelope.id)
    ] * 2
    assert len({one.delivery for one in repeats(bench)} | {first.attributes.delivery}) == 3


async def test_an_event_is_remembered_beyond_its_providers_last_retry(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    await bench.deliver(signer)
    assert PATIENT.webhook.retries is not None
    wanted = (PATIENT.webhook.retries.horizon_h + HORIZON_MARGIN_H) * 3600
    assert list(bench.memory.lifetimes_s.values()) == [wanted]
    assert UNKNOWN_HORIZON_H > 75, "the longest published schedule"


async def test_one_id_with_another_body_goes_to_quarantine_and_the_first_stays_known(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    await bench.deliver(signer)
    for _ in range(2):
        assert (await bench.deliver(signer, body=other_body(signer))).status == PATIENT.webhook.success_status
    assert [record.topic for record in bench.accepted[1:]] == [GATEWAY_QUARANTINE.name] * 2
    assert {record.attributes.quarantine for record in bench.accepted[1:]} == {"conflict"}
    await bench.deliver(signer)
    await bench.rejections.drain()
    assert len(repeats(bench)) == 1, "the first body is still the one that counts"


async def test_equal_ids_at_two_endpoints_are_two_events(bench: Any) -> None:
    for _ in range(2):
        signer = bench.connect(PATIENT)
        assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status
    assert len(bench.accepted) == 2
    assert not repeats(bench)


async def test_an_event_whose_write_failed_is_not_known_so_its_retry_counts(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    bench.publisher.fail_from = 0
    assert (await bench.deliver(signer)).status == 503
    bench.publisher.fail_from = None
    assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status
    assert len(bench.accepted) == 1


async def test_a_paused_endpoint_still_says_yes_and_its_events_are_held_back(bench: Any) -> None:
    signer = bench.connect(PATIENT, state="paused")
    assert (await bench.deliver(signer)).status == PATIENT.webhook.success_status
    (record,) = bench.accepted
    assert (record.topic, record.attributes.quarantine) == (GATEWAY_QUARANTINE.name, "paused")


@pytest.mark.parametrize("decision", [{"emergency": True}, {"bulk_per_s": 0.0}])
async def test_shed_bulk_gets_429_if_its_provider_comes_back_and_nothing_else_does(
    bench: Any, decision: dict[str, Any]
) -> None:
    decide(bench, **decision)
    bulk = await bench.deliver(bench.connect(PATIENT, lane=Lane.BULK))
    assert (bulk.status, bulk.code) == (429, "shed")
    assert int(bulk.headers["retry-after"]) > 0
    assert [one.reason for one in bench.rejected] == ["shed"]
    for lane in (Lane.CRITICAL, Lane.STANDARD):
        assert (await bench.deliver(bench.connect(PATIENT, lane=lane))).status == PATIENT.webhook.success_status
    punishing = await bench.deliver(bench.connect(PUNISHING, lane=Lane.BULK))
    assert punishing.status == PUNISHING.webhook.success_status


async def test_slowed_bulk_is_let_in_at_the_rate_that_was_decided(bench: Any) -> None:
    decide(bench, bulk_per_s=2)
    signer = bench.connect(PATIENT, lane=Lane.BULK)

    async def let_in(count: int) -> int:
        statuses = []
        for _ in range(count):
            bench.memory.seen.clear()
            statuses.append((await bench.deliver(signer)).status)
        return statuses.count(PATIENT.webhook.success_status)

    assert await let_in(10) == 2
    bench.clock.advance(1)
    assert await let_in(10) == 2
    decide(bench)
    assert await let_in(10) == 10


async def test_one_endpoint_serves_the_tenants_that_its_routes_name(bench: Any) -> None:
    routes = TenantRoutes(source="body:/shop/id", accounts={"7": "shop-7"})
    signer = bench.connect(PATIENT, tenant_routes=routes)
    document = json.loads(signer.fixture.body)
    for shop, tenant in (("7", "shop-7"), ("8", "t1"), (None, "t1")):
        bench.memory.seen.clear()
        bench.publisher.records.clear()
        await bench.deliver(signer, body=json.dumps(document | {"shop": {"id": shop}}).encode())
        (record,) = bench.accepted
        assert record.attributes.tenant == tenant
        assert record.key.startswith((f"{tenant}:", signer.endpoint))


async def test_a_header_never_names_a_tenant(bench: Any) -> None:
    signer = bench.connect(PATIENT, tenant_routes=TenantRoutes(source="header:x-shop", accounts={"7": "shop-7"}))
    headers = signer.headers(signer.fixture.body) | {"x-shop": "7"}
    await bench.post(signer.endpoint, signer.fixture.body, headers)
    assert bench.accepted[0].attributes.tenant == "t1"


async def test_a_replaced_url_is_410_after_its_overlap(bench: Any) -> None:
    token = EndpointToken(token="old-token", not_after=bench.clock.now() + timedelta(hours=1))
    signer = bench.connect(PATIENT, tokens=(token,))
    assert (await bench.send("old-token", signer.request(signer.fixture))).status == PATIENT.webhook.success_status
    bench.clock.advance(3600)
    reply = await bench.send("old-token", signer.request(signer.fixture))
    assert (reply.status, reply.code) == (410, "endpoint_retired")


async def test_a_card_number_is_counted_and_masked_only_where_the_endpoint_wants_it(bench: Any) -> None:
    document = json.loads(PATIENT.fixtures()[0].body) | {"note": f"card {CARD}"}
    body = json.dumps(document).encode()
    marked, masked = bench.connect(PATIENT), bench.connect(PATIENT, card_numbers="mask")
    for signer in (marked, masked):
        assert (await bench.deliver(signer, body=body)).status == PATIENT.webhook.success_status
    first, second = bench.accepted
    assert (first.attributes.cards, second.attributes.cards) == (1, 1)
    assert first.envelope.data == body
    assert CARD.encode() not in second.envelope.data
    assert len(second.envelope.data) == len(body)
    assert json.loads(second.payload)["note"].startswith("card 424242")
    assert first.attributes.bodysha256 == second.attributes.bodysha256, "of the bytes as received"


async def test_a_body_too_large_for_a_record_travels_by_reference(make_bench: Any) -> None:
    bench = make_bench(inline_bytes=1000)
    signer = bench.connect(PATIENT)
    body = json.dumps(json.loads(signer.fixture.body) | {"padding": "x" * 2000}).encode()
    assert (await bench.deliver(signer, body=body)).status == PATIENT.webhook.success_status
    (record,) = bench.accepted
    assert record.envelope.data == b""
    assert await bench.claims.get(record.attributes.claim) == body


async def test_concurrent_repeats_are_written_at_least_once_and_lost_never(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    replies = await asyncio.gather(*(bench.deliver(signer) for _ in range(20)))
    assert {reply.status for reply in replies} == {PATIENT.webhook.success_status}
    await bench.rejections.drain()
    assert len(bench.accepted) + len(repeats(bench)) == 20
    assert bench.accepted


async def test_of_a_flood_of_refusals_some_are_recorded_and_all_are_counted(bench: Any) -> None:
    signer = bench.connect(PATIENT)
    for _ in range(300):
        assert (await bench.post(signer.endpoint, b"{}", {})).status == PATIENT.webhook.refused_status
    assert 100 <= len(bench.rejected) < 150


VOLATILE = [p for p in WEBHOOKS if p.webhook.volatile and p.webhook.items == "single" and not p.webhook.form_json]


@pytest.mark.parametrize("provider", VOLATILE, ids=lambda p: p.slug)
async def test_what_a_provider_changes_with_every_attempt_makes_no_conflict(bench: Any, provider: Provider) -> None:
    signer = bench.connect(provider)
    document = json.loads(signer.fixture.body)
    assert (await bench.deliver(signer)).status == provider.webhook.success_status
    for pointer in provider.webhook.volatile:
        holder, last = document, pointer.rpartition("/")[2]
        for step in pointer.split("/")[1:-1]:
            holder = holder[step]
        if isinstance(holder.get(last), int):
            # A stamp stays inside of its window.
            holder[last] += 1
    await bench.deliver(signer, body=json.dumps(document).encode())
    await bench.rejections.drain()
    assert len(bench.accepted) == 1
    assert len(repeats(bench)) == 1
