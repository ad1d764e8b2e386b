"""Gateway records in, rows out: outcomes, idempotency, and what is shown of one delivery. Real database, no broker."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from chassis.http.auth import Role
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import api_client, migrated_dsn, schema_differences
from contracts.events.orchestrator import SagaAdvanced
from contracts.events.sync import CommandAnswered, PaymentChanged
from contracts.ids import uuid7
from contracts.topics import ORCHESTRATOR_SAGA_EVENTS, SYNC_CHANGES, SYNC_RESULTS
from webhook_gateway.ledger.table import routes

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def test_models_and_migrations_describe_the_same_tables(postgres_server: PostgresAdmin) -> None:
    dsn = await migrated_dsn(postgres_server, "webhook_gateway")
    assert await schema_differences(dsn, "webhook_gateway") == []


async def test_the_first_delivery_of_an_event_is_accepted_and_the_others_are_duplicates(ledger: Any, make: Any) -> None:
    first = uuid7()
    second = timedelta(seconds=1)
    await ledger.store(make.accepted("e1", delivery=first), make.accepted("e1", at=make.start + second))
    await ledger.store(make.accepted("e1", at=make.start + 2 * second), make.accepted("e2"))
    await ledger.store(make.accepted("e1", endpoint="ep-2"))
    found = [one for one in await ledger.search(endpoint="ep-1") if one["event_id"] == "e1"]
    assert [one["outcome"] for one in found] == ["duplicate", "duplicate", "accepted"]
    assert [one["first_delivery"] for one in found] == [str(first), str(first), None]
    assert [one["outcome"] for one in await ledger.search(endpoint="ep-2")] == ["accepted"]


async def test_the_same_event_with_another_body_is_a_conflict_and_an_issue(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1", body=b'{"amount": 1}'))
    await ledger.store(make.accepted("e1", body=b'{"amount": 2}', at=make.start + timedelta(seconds=1)))
    assert [one["outcome"] for one in await ledger.search()] == ["conflict", "accepted"]
    [issue] = (await ledger.get("/v1/issues", kind="conflict"))["items"]
    assert (issue["subject"], issue["state"], issue["detail"]["event"]) == ("ep-1", "open", "e1")


async def test_what_a_vendor_varies_between_repeats_is_no_conflict(ledger: Any, make: Any) -> None:
    """The gateway's fingerprint leaves it out; a delivery from before there were any has the whole hash."""
    body, hashed = b'{"amount": 1}', hashlib.sha256(b'{"amount": 1}').hexdigest()
    await ledger.store(make.accepted("e1", body=body, fingerprint=hashed[:32]))
    await ledger.store(make.accepted("e2", body=body, bodysha256=hashed))
    later = make.start + timedelta(seconds=1)
    await ledger.store(make.accepted("e1", body=b'{"amount": 1, "try": 2}', fingerprint=hashed[:32], at=later))
    await ledger.store(make.accepted("e2", body=body, fingerprint=hashed[:32], at=later))
    await ledger.store(make.accepted("e1", body=body, fingerprint="0" * 32, at=later + timedelta(seconds=1)))
    found = sorted((one["event_id"], one["received_at"], one["outcome"]) for one in await ledger.search())
    assert [(event, outcome) for event, _, outcome in found] == [
        ("e1", "accepted"),
        ("e1", "duplicate"),
        ("e1", "conflict"),
        ("e2", "accepted"),
        ("e2", "duplicate"),
    ]


@pytest.mark.parametrize("fetched_first", [True, False])
async def test_a_fetched_event_is_a_duplicate_however_its_vendor_spells_it(
    ledger: Any, make: Any, *, fetched_first: bool
) -> None:
    facts: list[dict[str, Any]] = [{"origin": "reconcile", "body": b'{"amount":1}'}, {"body": b'{"amount": 1}'}]
    for number, fact in enumerate(facts if fetched_first else reversed(facts)):
        await ledger.store(make.accepted("e1", at=make.start + timedelta(seconds=number), **fact))
    assert [one["outcome"] for one in await ledger.search()] == ["duplicate", "accepted"]
    assert (await ledger.get("/v1/issues", kind="conflict"))["items"] == []


async def test_items_of_two_batches_are_compared_by_themselves(ledger: Any, make: Any) -> None:
    batches = (b'[{"id":"a"},{"id":"b"}]', b'[{"id":"a"},{"id":"c"}]')
    for number, body in enumerate(batches):
        at, delivery = make.start + timedelta(seconds=number), uuid7()
        await ledger.store(
            make.accepted("a", at=at, delivery=delivery, body=body, items=2),
            make.accepted(f"x{number}", at=at, delivery=delivery, body=b'{"id":"b"}', item=1, items=2),
        )
    assert [one["outcome"] for one in await ledger.search(event="a")] == ["duplicate", "accepted"]


async def test_the_same_record_again_is_one_row_and_counted_once(ledger: Any, make: Any) -> None:
    message = make.accepted("e1")
    await ledger.store(message)
    await ledger.store(message, message)
    assert [one["outcome"] for one in await ledger.search()] == ["accepted"]
    counted = await ledger.get(
        "/v1/analytics/deliveries", **{"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
    )
    assert [one["deliveries"] for one in counted["items"]] == [1]


async def test_a_suppressed_repeat_is_an_attempt_without_a_body(ledger: Any, make: Any) -> None:
    first = uuid7()
    await ledger.store(make.accepted("e1", delivery=first))
    later = make.start + timedelta(minutes=1)
    repeats = [make.repeated("e1", first, at=later), make.repeated("e1", first, at=later)]
    await ledger.store(*repeats)
    await ledger.store(repeats[0])
    story = await ledger.get(f"/v1/deliveries/{first}")
    assert [one["outcome"] for one in story["attempts"]] == ["accepted", "duplicate", "duplicate"]
    assert {one["first_delivery"] for one in story["attempts"][1:]} == {str(first)}


async def test_held_and_conflicting_deliveries_are_in_quarantine(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1", quarantine="paused"), make.accepted("e2", quarantine="conflict"))
    items = (await ledger.get("/v1/quarantine"))["items"]
    assert sorted(one["outcome"] for one in items) == ["conflict", "held"]
    assert [one["event_id"] for one in (await ledger.get("/v1/quarantine", outcome="held"))["items"]] == ["e1"]


async def test_hostile_text_is_stored_and_found(ledger: Any, make: Any) -> None:
    nasty = "e\0' OR 1=1 --"
    await ledger.store(
        make.accepted(nasty, body=b'{"a": "\\u0000"}', eventtype="t\0x", entity="payment:\0"),
        make.accepted("deep", body=b"[" * 2000 + b"]" * 2000),
        make.accepted("half", body=b'{"a": "\\ud800"}'),
        make.accepted("huge", body=b'{"a": 1e999, "b": 123456789012345678901234567890}'),
    )
    found = await ledger.search()
    assert sorted(one["event_id"] for one in found) == sorted([nasty.replace("\0", "\ufffd"), "deep", "half", "huge"])


async def test_one_delivery_is_a_whole_story(ledger: Any, make: Any) -> None:
    delivery, refusal, payment, saga = uuid7(), make.rejected(), uuid4(), uuid4()
    await ledger.store(make.accepted("e1", delivery=delivery), refusal)
    changed = PaymentChanged(
        payment_id=payment,
        tenant="t1",
        connection=uuid4(),
        provider="acme",
        external_id="p1",
        status="succeeded",
        occurred_at=make.start,
        version=1,
        cause="e1",
    )
    answered = CommandAnswered(
        saga_id=saga,
        step="refund",
        direction="do",
        effect_key="k",
        attempt=1,
        status="applied",
        answered_at=make.start,
    )
    advanced = SagaAdvanced(
        saga_id=saga,
        tenant="t1",
        definition="d",
        definition_version=1,
        seq=1,
        status="running",
        entry="started",
        at=make.start,
    )
    trail = [
        make.message(changed, "1", SYNC_CHANGES.name, source="patchbay/sync-worker"),
        make.message(answered, "2", SYNC_RESULTS.name, source="patchbay/sync-worker"),
        make.message(advanced, "3", ORCHESTRATOR_SAGA_EVENTS.name, source="patchbay/orchestrator"),
    ]
    await ledger.trace(*trail)
    await ledger.trace(*trail)
    shown = await ledger.get(f"/v1/deliveries/{delivery}")
    (item,) = shown["items"]
    assert (item["body"], item["headers"], item["trace_id"]) == ({"id": 1}, [["x-signature", "v1=ab"]], make.trace)
    assert (item["topic"], item["partition"], item["offset"]) == ("gateway.events-standard.v1", 3, 8)
    assert [(one["service"], one["status"]) for one in shown["effects"]] == [
        ("orchestrator", "running: started"),
        ("sync-worker", "succeeded"),
        ("sync-worker", "applied"),
    ]
    assert {one["ref"] for one in shown["effects"]} == {str(payment), f"{saga}:refund", str(saga)}
    refused = (await ledger.get(f"/v1/deliveries/{refusal.envelope.id}"))["items"][0]
    assert (refused["reason"], refused["status"], refused["body"]) == ("bad_signature", 401, "\ufffd")


async def test_many_writers_at_once_lose_nothing(ledger: Any, make: Any) -> None:
    await asyncio.gather(*(ledger.store(make.accepted(f"e{i}"), make.rejected()) for i in range(8)))
    assert len(await ledger.search(outcome="accepted")) == len(await ledger.search(outcome="rejected")) == 8
    span = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}
    [counted] = (await ledger.get("/v1/analytics/deliveries", **span))["items"]
    assert (counted["outcomes"], counted["rejected"]) == ({"accepted": 8, "rejected": 8}, {"bad_signature": 8})
    assert counted["accept_latency_ms"] == {"p50": 4.0, "p95": 4.0, "p99": 4.0}


async def test_a_compressed_body_is_shown_and_found_plain(ledger: Any, make: Any) -> None:
    message = make.accepted("zipped", encoding="gzip")
    message.envelope = replace(message.envelope, data=gzip.compress(message.envelope.data))
    await ledger.store(message)
    [found] = await ledger.search(path="$.id ? (@ == 1)")
    [item] = (await ledger.get(f"/v1/deliveries/{found['id']}"))["items"]
    assert (item["encoding"], item["body"]) == ("gzip", {"id": 1})


async def test_roles_and_tokens(ledger: Any) -> None:
    issuer = ledger.issuer
    async with api_client(routes(ledger.api), {}) as nobody:
        for headers, status in (
            ({}, 401),
            ({"authorization": "Bearer x.y.z"}, 401),
            ({"authorization": f"Bearer {issuer.token(Role.OPERATOR, aud='others')}"}, 401),
            ({"authorization": f"Bearer {issuer.token(Role.OPERATOR, exp=1)}"}, 401),
            (issuer.headers(Role.SERVICE), 403),
        ):
            assert (await nobody.get("/v1/deliveries", headers=headers)).status_code == status
        viewer = issuer.headers(Role.VIEWER)
        for path in ("deliveries", "replays", "quarantine", "dead-letters", "issues", "analytics/deliveries"):
            assert (await nobody.get(f"/v1/{path}", headers=viewer)).status_code == 200
        asked = await nobody.get("/v1/deliveries", params={"path": "$.id"}, headers=viewer)
        assert asked.status_code == 403
        # Lists are for viewers; bodies are personal data, and acts need more.
        for method, path in (
            ("GET", f"deliveries/{uuid7()}"),
            ("GET", "deliveries/export"),
            ("GET", f"dead-letters/{uuid7()}"),
            ("POST", "replays"),
            ("POST", f"deliveries/{uuid7()}/reverify"),
            ("POST", f"quarantine/{uuid7()}/release"),
            ("POST", f"dead-letters/{uuid7()}/replay"),
            ("POST", f"issues/{uuid7()}/acknowledge"),
        ):
            assert (await nobody.request(method, f"/v1/{path}", headers=viewer)).status_code == 403, path


@pytest.mark.parametrize("path", ["deliveries", "replays", "dead-letters"])
async def test_an_unknown_id_is_not_found(ledger: Any, path: str) -> None:
    for unknown in (str(uuid7()), str(uuid4()), "no-uuid"):
        assert (await ledger.client.get(f"/v1/{path}/{unknown}")).status_code == 404
