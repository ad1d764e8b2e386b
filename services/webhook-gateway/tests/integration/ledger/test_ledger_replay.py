"""Replays, and the end of a quarantine: what is written again, in which order, how fast, and once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from chassis.kafka.records import Message, Origin
from contracts.events.gateway import DeliveryAttributes
from contracts.ids import uuid7
from contracts.topics import GATEWAY_EVENTS, Lane
from webhook_gateway.replay import ReplayRunner
from webhook_gateway.repository import replays

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

STANDARD = GATEWAY_EVENTS[Lane.STANDARD].name


async def start(ledger: Any, **body: Any) -> dict[str, Any]:
    answer = await ledger.post("/v1/replays", {"reason": "a test"} | body)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    return job


async def test_a_replay_writes_the_same_record_marked_to_its_lane(ledger: Any, make: Any) -> None:
    delivery = uuid7()
    facts = {"apiversion": "2026-01", "items": 2, "cards": 1, "place": "/events/0", "fingerprint": "ab" * 16}
    first = make.accepted("e1", delivery=delivery, body=b'{"events": [{}, {}]}', lane="critical", **facts)
    await ledger.store(first)
    job = await start(ledger, delivery_ids=[str(delivery)])
    await ledger.run_jobs()
    [(topic, key, again)] = await ledger.outbox()
    assert (topic, key) == (GATEWAY_EVENTS[Lane.CRITICAL].name, "t1:payment:p1")
    assert (again.dedupe_id, again.data, again.time) == (first.envelope.dedupe_id, first.envelope.data, make.start)
    assert again.traceparent == first.envelope.traceparent
    before, after = DeliveryAttributes.of(first.envelope), DeliveryAttributes.of(again)
    changed = {f.name for f in fields(DeliveryAttributes) if getattr(before, f.name) != getattr(after, f.name)}
    assert changed == {"origin", "replay"}
    assert (after.origin, after.replay) == ("replay", job["id"])
    done = await ledger.get(f"/v1/replays/{job['id']}")
    assert (done["state"], done["total"], done["done"], done["missing"]) == ("done", 1, 1, 0)
    # What comes back is known: no new row, and the story says who did it.
    await ledger.store(Message(again, key.encode(), Origin(topic, 1, 99), []))
    story = await ledger.get(f"/v1/deliveries/{delivery}")
    assert [one["outcome"] for one in story["attempts"]] == ["accepted"]
    assert [(one["id"], one["written"]) for one in story["replays"]] == [(job["id"], True)]
    assert [one.action for one in await ledger.audited()] == ["replay.started"]


async def test_order_per_key_is_kept_and_the_rate_too(ledger: Any, make: Any) -> None:
    """Arrival times say nothing about the order in the log: two gateways' clocks may differ."""
    messages = [
        make.accepted(f"e{i}", at=make.start + timedelta(seconds=(i * 7) % 50), entity=f"payment:p{i % 5}")
        for i in range(50)
    ]
    await ledger.store(*reversed(messages))
    await start(ledger, endpoint="ep-1", rate_per_s=10)
    written: list[int] = []
    for _ in range(10):
        await ledger.runner.step()
        written.append(len(await ledger.outbox()))
        ledger.clock.advance(1)
    assert all(late - early <= 11 for early, late in pairwise(written))
    assert written[3] >= 30
    order: dict[str, list[str]] = defaultdict(list)
    for _, key, envelope in await ledger.outbox():
        order[key].append(envelope.id)
    assert order == {f"t1:payment:p{k}": [f"e{i}" for i in range(50) if i % 5 == k] for k in range(5)}


async def test_a_killed_replay_goes_on_where_it_was(ledger: Any, make: Any) -> None:
    await ledger.store(*(make.accepted(f"e{i}") for i in range(30)))
    job = await start(ledger, endpoint="ep-1", rate_per_s=5)
    for _ in range(3):
        await ledger.runner.step()
        ledger.clock.advance(1)
    half = await ledger.get(f"/v1/replays/{job['id']}")
    assert 0 < half["done"] == len(await ledger.outbox()) < 30
    # A step that dies before its commit leaves neither records nor progress.
    with pytest.raises(RuntimeError):
        await _die_within_a_step(ledger, UUID(job["id"]))
    ledger.runner = ReplayRunner(ledger.database, ledger.clock, ledger.book)
    await ledger.run_jobs()
    assert [envelope.id for _, _, envelope in await ledger.outbox()] == [f"e{i}" for i in range(30)]


async def _die_within_a_step(ledger: Any, job: UUID) -> None:
    async with ledger.database.unit_of_work() as uow:
        taken = await replays.take(uow.connection, job)
        assert taken is not None
        assert await ledger.runner._write(uow, taken, 5) == 5
        raise RuntimeError("kill -9")


async def test_a_new_event_id_is_an_act_of_its_own(ledger: Any, make: Any) -> None:
    delivery = uuid7()
    await ledger.store(make.accepted("e1", delivery=delivery))
    job = await start(ledger, delivery_ids=[str(delivery)], new_event_id=True, reason="the first run had a bug")
    await ledger.run_jobs()
    [(_, _, again)] = await ledger.outbox()
    assert again.id == f"e1+{job['id']}"
    assert DeliveryAttributes.of(again).event == "e1"
    [act] = await ledger.audited()
    assert (act.detail["new_event_id"], act.detail["reason"]) == ("true", "the first run had a bug")


async def test_a_query_replays_first_deliveries_only_and_says_beforehand_how_many(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1"), make.accepted("e2", provider="other", body=b'{"n": 5}'), make.rejected())
    await ledger.store(make.accepted("e1", at=make.start + timedelta(seconds=1)))
    await ledger.store(make.accepted("e3", quarantine="paused"))
    window = {"received_from": make.start.isoformat()}
    dry = await ledger.post("/v1/replays", {"query": window, "reason": "a test", "dry_run": True})
    assert (dry.json()["total"], len(dry.json()["by"])) == (2, 2)
    assert (await ledger.get("/v1/replays"))["items"] == []
    job = await start(ledger, query=window | {"path": "$.n ? (@ == 5)"})
    assert job["total"] == 1
    await ledger.run_jobs()
    assert [envelope.id for _, _, envelope in await ledger.outbox()] == ["e2"]


async def test_a_replay_is_paused_resumed_and_cancelled(ledger: Any, make: Any) -> None:
    await ledger.store(*(make.accepted(f"e{i}") for i in range(10)))
    job = (await start(ledger, endpoint="ep-1", rate_per_s=1))["id"]
    await ledger.runner.step()
    assert (await ledger.post(f"/v1/replays/{job}/pause")).json()["state"] == "paused"
    ledger.clock.advance(60)
    await ledger.runner.step()
    assert len(await ledger.outbox()) == 1
    assert await ledger.refusal(await ledger.post(f"/v1/replays/{job}/pause")) == (409, "wrong_state")
    assert (await ledger.post(f"/v1/replays/{job}/resume")).json()["state"] == "running"
    await ledger.runner.step()
    # A pause is no credit: the minute is not made up for by a flood.
    assert len(await ledger.outbox()) <= 3
    assert (await ledger.post(f"/v1/replays/{job}/cancel")).json()["state"] == "cancelled"
    ledger.clock.advance(60)
    await ledger.runner.step()
    assert len(await ledger.outbox()) <= 3
    assert (await ledger.client.post(f"/v1/replays/{job}/explode")).status_code == 404
    actions = [one.action for one in await ledger.audited()]
    assert actions == ["replay.started", "replay.paused", "replay.resumed", "replay.cancelled"]


async def test_a_replay_waits_while_the_broker_is_away(ledger: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhook_gateway.replay.MAX_UNSENT", 3)
    await ledger.store(*(make.accepted(f"e{i}") for i in range(10)))
    await start(ledger, endpoint="ep-1", rate_per_s=1)
    for _ in range(8):
        ledger.clock.advance(1)
        await ledger.runner.step()
    assert len(await ledger.outbox()) < 10


async def test_deliveries_that_are_gone_are_counted_as_missing(ledger: Any, make: Any) -> None:
    await ledger.store(*(make.accepted(f"e{i}") for i in range(4)))
    job = (await start(ledger, endpoint="ep-1"))["id"]
    async with ledger.database.unit_of_work() as uow:
        await uow.connection.execute("DELETE FROM deliveries WHERE event_id = 'e1'")
    await ledger.run_jobs()
    found = await ledger.get(f"/v1/replays/{job}")
    assert (found["state"], found["done"], found["missing"]) == ("done", 4, 1)
    assert [envelope.id for _, _, envelope in await ledger.outbox()] == ["e0", "e2", "e3"]


async def test_bad_replays_are_refused_by_name(ledger: Any, make: Any) -> None:
    refused = make.rejected()
    await ledger.store(refused)
    known = {"reason": "a test"}
    for body, field in (
        ({"endpoint": "ep-1"}, "reason"),
        (known, "query"),
        (known | {"query": {}}, "query"),
        (known | {"query": {"colour": "red"}}, "query.colour"),
        (known | {"query": {"outcome": "rejected"}}, "query.outcome"),
        (known | {"query": {"path": "$ ? ("}}, "path"),
        (known | {"endpoint": "ep-1", "delivery_ids": [str(uuid7())]}, "query"),
        (known | {"delivery_ids": []}, "delivery_ids"),
        (known | {"delivery_ids": ["x"]}, "delivery_ids.0"),
        (known | {"endpoint": "ep-1", "rate_per_s": 0}, "rate_per_s"),
        (known | {"delivery_ids": [str(uuid7())], "received_from": "2026-01-01T00:00:00Z"}, "received_from"),
    ):
        answer = await ledger.post("/v1/replays", body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), body
    nothing = await ledger.post("/v1/replays", known | {"delivery_ids": [refused.envelope.id]})
    assert await ledger.refusal(nothing) == (409, "nothing_to_replay")
    assert (await ledger.get("/v1/replays"))["items"] == []


async def test_the_same_idempotency_key_starts_one_replay(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1"))
    body, key = {"endpoint": "ep-1", "reason": "a test"}, {"idempotency-key": "once"}
    answers = [await ledger.client.post("/v1/replays", json=body, headers=key) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len((await ledger.get("/v1/replays"))["items"]) == 1


async def test_held_deliveries_leave_in_order_when_their_endpoint_is_live_again(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint(state="paused"))
    held = [make.accepted(f"e{i}", quarantine="paused", entity="payment:p1") for i in range(5)]
    await ledger.store(*held)
    await ledger.releaser.look()
    assert (await ledger.get("/v1/replays"))["items"] == []
    ledger.configure(make.endpoint(state="live", version=2))
    await ledger.releaser.look()
    await ledger.releaser.look()
    [job] = (await ledger.get("/v1/replays"))["items"]
    assert (job["kind"], job["total"], job["created_by"]) == ("release", 5, "webhook-gateway")
    await ledger.run_jobs()
    written = await ledger.outbox()
    assert [(topic, envelope.id) for topic, _, envelope in written] == [(STANDARD, f"e{i}") for i in range(5)]
    attributes = DeliveryAttributes.of(written[0][2])
    assert (attributes.origin, attributes.quarantine, attributes.replay) == ("webhook", "", job["id"])
    await ledger.releaser.look()
    assert len((await ledger.get("/v1/replays"))["items"]) == 1
    back = [
        Message(envelope, key.encode(), Origin(topic, 0, i), []) for i, (topic, key, envelope) in enumerate(written)
    ]
    await ledger.store(*back)
    assert {(one["outcome"], one["settled"]) for one in await ledger.search()} == {("accepted", "released")}
    assert (await ledger.get("/v1/quarantine"))["items"] == []


async def test_a_release_stands_still_while_its_endpoint_is_paused_again(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint(state="live"))
    await ledger.store(make.accepted("e1", quarantine="paused"))
    await ledger.releaser.look()
    ledger.configure(make.endpoint(state="paused", version=2))
    await ledger.runner.step()
    assert await ledger.outbox() == []
    ledger.configure(make.endpoint(state="live", version=3))
    await ledger.runner.step()
    assert len(await ledger.outbox()) == 1


async def test_an_operator_decides_about_a_conflict_once(ledger: Any, make: Any) -> None:
    good, bad = uuid7(), uuid7()
    await ledger.store(
        make.accepted("e1", delivery=good, quarantine="conflict"),
        make.accepted("e2", delivery=bad, quarantine="conflict"),
    )
    released = await ledger.post(f"/v1/quarantine/{good}/release", {"reason": "a correction"})
    assert released.status_code == 202
    await ledger.run_jobs()
    [(topic, _, envelope)] = await ledger.outbox()
    # Its id is another event's, which consumers know: without one of its own it would be absorbed.
    assert (topic, envelope.id) == (STANDARD, f"e1+{released.json()['job']}")
    assert (await ledger.post(f"/v1/quarantine/{bad}/discard", {"reason": "a forgery"})).status_code == 200
    for delivery in (good, bad):
        again = await ledger.post(f"/v1/quarantine/{delivery}/release", {"reason": "once more"})
        assert await ledger.refusal(again) == (409, "not_in_quarantine")
    assert (await ledger.post(f"/v1/quarantine/{uuid7()}/discard", {"reason": "nobody"})).status_code == 404
    assert (await ledger.post(f"/v1/quarantine/{bad}/discard", {})).status_code == 422
    assert [one.action for one in await ledger.audited()] == ["quarantine.released", "quarantine.discarded"]


async def test_a_conflict_that_reached_a_lane_is_released_like_one_that_did_not(ledger: Any, make: Any) -> None:
    """The gateway's memory was away, every inbox buried it, and a person finds the second body to be the right one."""
    second = uuid7()
    later = make.start + timedelta(seconds=1)
    await ledger.store(make.accepted("e1", fingerprint="a" * 32))
    await ledger.store(make.accepted("e1", delivery=second, fingerprint="b" * 32, body=b'{"id": 2}', at=later))
    [waiting] = (await ledger.get("/v1/quarantine"))["items"]
    assert (waiting["id"], waiting["outcome"]) == (str(second), "conflict")
    released = await ledger.post(f"/v1/quarantine/{second}/release", {"reason": "the first one was wrong"})
    assert released.status_code == 202
    await ledger.run_jobs()
    [(topic, key, envelope)] = await ledger.outbox()
    assert (topic, envelope.id, envelope.data) == (STANDARD, f"e1+{released.json()['job']}", b'{"id": 2}')
    assert DeliveryAttributes.of(envelope).fingerprint == "b" * 32
    await ledger.store(Message(envelope, key.encode(), Origin(topic, 0, 7), []))
    outcomes = {one["id"]: one["outcome"] for one in await ledger.search(event="e1")}
    assert outcomes[str(second)] == "accepted"
