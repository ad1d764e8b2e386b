"""Dead letters of any service: kept, repaired, sent back, discarded. Real Kafka for the consumer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from chassis.http.auth import Role
from chassis.kafka.broker import LoopRunner
from chassis.kafka.failures import FailedRecord, dead_letter_row
from chassis.kafka.producer import Publisher
from chassis.kafka.records import Origin
from chassis.kafka.rows import Row, unpack_headers
from chassis.testing.harness import until
from chassis.testing.service_kit import declared_topics
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.ids import uuid7
from contracts.topics import SYNC_RESULTS, TOPICS
from webhook_gateway.deadletters import DeadLetterLoop, store

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


@dataclass
class Record:
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def dead(
    identifier: str = "m1", *, offset: int = 5, value: bytes = b'{"saga": 1}', consumer: str = "orchestrator-results"
) -> Row:
    """Return the dead letter that the chassis writes."""
    envelope = Envelope(id=identifier, source="s", type="command.answered.v1", data=value, extensions={"tenant": "t1"})
    failed = FailedRecord(consumer, Origin(SYNC_RESULTS.name, 3, offset, 2), b"saga-1", value, envelope.headers())
    return dead_letter_row(failed, SYNC_RESULTS, Invalid("undecodable", "saga: Input should be a string"))


async def keep(ledger: Any, row: Row, offset: int) -> None:
    record = Record(row.topic, 0, offset, row.key, row.value, unpack_headers(row.headers))
    async with ledger.database.unit_of_work() as uow:
        await store(uow, record, ledger.clock)


async def only(ledger: Any, **query: Any) -> dict[str, Any]:
    [found] = (await ledger.get("/v1/dead-letters", **query))["items"]
    letter: dict[str, Any] = found
    return letter


async def test_a_dead_letter_is_listed_shown_and_an_issue(ledger: Any) -> None:
    await keep(ledger, dead(), 0)
    await keep(ledger, dead(), 0)
    letter = await only(ledger, service="orchestrator", state="open", error_code="undecodable", tenant="t1")
    assert (letter["origin_topic"], letter["origin_partition"], letter["origin_offset"]) == (SYNC_RESULTS.name, 3, 5)
    shown = await ledger.get(f"/v1/dead-letters/{letter['id']}")
    assert (shown["value"], shown["key"], shown["headers"]["ce_id"]) == ({"saga": 1}, "saga-1", "m1")
    assert "x-error" not in shown["headers"]
    [issue] = (await ledger.get("/v1/issues", kind="dead_letter"))["items"]
    assert (issue["subject"], issue["occurrences"]) == ("orchestrator-results:undecodable", 1)
    assert (await ledger.get("/v1/dead-letters", service="sync-worker"))["items"] == []


async def test_a_deliverys_story_has_the_dead_letters_of_its_event_and_no_others(ledger: Any, make: Any) -> None:
    delivery = uuid7()
    await ledger.store(make.accepted("m1", delivery=delivery), make.accepted("m2"))
    await keep(ledger, dead("m1", consumer="sync-worker-deliveries"), 0)
    await keep(ledger, dead("m2", offset=6), 1)
    story = await ledger.get(f"/v1/deliveries/{delivery}")
    [letter] = story["dead_letters"]
    assert (letter["consumer"], letter["error_code"], letter["state"]) == (
        "sync-worker-deliveries",
        "undecodable",
        "open",
    )
    assert "value" not in letter


async def test_it_goes_back_as_it_was_once(ledger: Any) -> None:
    await keep(ledger, dead(), 0)
    path = f"/v1/dead-letters/{(await only(ledger))['id']}"
    assert (await ledger.post(f"{path}/replay", {"reason": "fixed the reader"})).status_code == 200
    [(topic, key, envelope)] = await ledger.outbox()
    assert (topic, key, envelope.id, envelope.data) == (SYNC_RESULTS.name, "saga-1", "m1", b'{"saga": 1}')
    async with ledger.database.connection() as connection:
        headers = dict(unpack_headers(await connection.fetchval("SELECT headers FROM outbox WHERE topic = $1", topic)))
    assert not [name for name in headers if name.startswith("x-")]
    for act in ("replay", "discard"):
        again = await ledger.post(f"{path}/{act}", {"reason": "once more"})
        assert await ledger.refusal(again) == (409, "already_settled")
    [issue] = (await ledger.get("/v1/issues", kind="dead_letter"))["items"]
    assert issue["state"] == "resolved"
    [act] = await ledger.audited()
    assert (act.action, act.detail["reason"], len(act.detail["sha256_before"])) == (
        *("dead_letter.replayed", "fixed the reader"),
        64,
    )


async def test_it_goes_back_repaired_and_both_hashes_are_audited(ledger: Any) -> None:
    await keep(ledger, dead(), 0)
    path = f"/v1/dead-letters/{(await only(ledger))['id']}/replay"
    for body in ({"value": "x", "value_base64": "eA=="}, {"value_base64": "!"}):
        assert (await ledger.post(path, {"reason": "a test"} | body)).status_code == 422
    assert (await ledger.post(path, {"reason": "repaired", "value": '{"saga": "1"}'})).status_code == 200
    [(_, _, envelope)] = await ledger.outbox()
    assert (envelope.id, envelope.data) == ("m1", b'{"saga": "1"}')
    [act] = await ledger.audited()
    assert act.action == "dead_letter.repaired"
    assert act.detail["sha256_before"] != act.detail["sha256_after"]


async def test_one_that_dies_again_is_open_again(ledger: Any) -> None:
    await keep(ledger, dead(), 0)
    letter = await only(ledger)
    await ledger.post(f"/v1/dead-letters/{letter['id']}/replay", {"reason": "a try"})
    await keep(ledger, dead(offset=9), 4)
    # Read again from before: its offset commit was lost.
    await keep(ledger, dead(), 0)
    again = await only(ledger)
    assert (again["id"], again["state"], again["attempts"], again["origin_offset"]) == (letter["id"], "open", 2, 9)


async def test_many_go_back_in_order_by_query(ledger: Any) -> None:
    for offset in (7, 5, 6):
        await keep(ledger, dead(f"m{offset}", offset=offset), offset)
    await keep(ledger, dead("other", consumer="sync-worker-commands"), 9)
    path, wanted = "/v1/dead-letters/replay", {"service": "orchestrator", "reason": "fixed"}
    assert (await ledger.post(path, wanted | {"dry_run": True})).json() == {"dry_run": True, "total": 3}
    assert await ledger.outbox() == []
    assert (await ledger.post(path, wanted)).json() == {"replayed": 3, "left": 0}
    assert [envelope.id for _, _, envelope in await ledger.outbox()] == ["m5", "m6", "m7"]
    assert (await only(ledger, state="open"))["consumer"] == "sync-worker-commands"
    assert (await ledger.post(path, wanted | {"colour": "red"})).status_code == 422


async def test_a_discarded_one_stays_with_its_reason(ledger: Any) -> None:
    await keep(ledger, dead(), 0)
    letter = await only(ledger)
    assert (await ledger.post(f"/v1/dead-letters/{letter['id']}/discard", {})).status_code == 422
    assert (await ledger.post(f"/v1/dead-letters/{letter['id']}/discard", {"reason": "obsolete"})).status_code == 200
    kept = await only(ledger, state="discarded")
    assert (kept["note"], kept["settled_by"]) == ("obsolete", "tester")
    assert (await ledger.post(f"/v1/dead-letters/{uuid7()}/discard", {"reason": "nobody"})).status_code == 404


async def test_any_bytes_are_kept_masked_and_shown_raw_to_an_admin(ledger: Any) -> None:
    value = b"\xff\x00 4111111111111111"
    record = Record(
        SYNC_RESULTS.dlq, 0, 3, None, value, [("ce_id", b"\xff\0"), ("x-offset", b"12e"), ("x-topic", b"nowhere")]
    )
    async with ledger.database.unit_of_work() as uow:
        await store(uow, record, ledger.clock)
    letter = await only(ledger)
    path = f"/v1/dead-letters/{letter['id']}"
    assert "411111******1111" in (await ledger.get(path))["value"]
    raw = await ledger.client.get(path, params={"raw": "true"}, headers=ledger.issuer.headers(Role.ADMIN))
    assert base64.b64decode(raw.json()["value_base64"]) == value
    refused = await ledger.post(f"{path}/replay", {"reason": "a test"})
    assert await ledger.refusal(refused) == (409, "unknown_topic")


async def test_the_consumer_reads_every_dead_letter_topic(ledger: Any, kafka_bootstrap: str) -> None:
    await declared_topics(kafka_bootstrap, *TOPICS)
    loop = DeadLetterLoop(ledger.database, ledger.clock)
    assert set(loop.subscription()) == {topic.dlq for topic in TOPICS if topic.retries}
    publisher, runner = Publisher(kafka_bootstrap), LoopRunner(kafka_bootstrap)
    await publisher.start()
    runner.add(loop)
    await runner.start()
    name = str(uuid7())
    try:
        await publisher.send_rows([dead(name), Row(SYNC_RESULTS.dlq, None, b"not an event", dead().headers)])

        async def both() -> bool:
            found = (await ledger.get("/v1/dead-letters"))["items"]
            return {name, "m1"} <= {one["message_id"] for one in found}

        await until(both, "both dead letters are stored")
    finally:
        await runner.stop()
        await publisher.stop()
