"""Search, pages, JSON paths and export."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from chassis.http.auth import Role
from contracts.ids import uuid7

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

HOUR = timedelta(hours=1)


async def test_filters_narrow_and_combine(ledger: Any, make: Any) -> None:
    await ledger.store(
        make.accepted("e1"),
        make.accepted(
            *("e2",), at=make.start + HOUR, provider="other", entity="payment:p2", eventtype="thing.gone", keyid="k2"
        ),
        make.accepted("e3", at=make.start + HOUR, lane="bulk", eventtype="other_thing"),
        make.rejected(at=make.start + 2 * HOUR),
        make.rejected("no_secret", at=make.start + 3 * HOUR),
    )
    for query, events in (
        ({"provider": "other"}, ["e2"]),
        ({"entity": "payment:p2"}, ["e2"]),
        ({"type": "thing.gone", "outcome": "accepted"}, ["e2"]),
        ({"type": "thing.*"}, ["e2", "e1"]),
        ({"type": "*thing"}, ["e3"]),
        # Signs that SQL gives a meaning are letters in a glob.
        ({"type": "other?thing"}, ["e3"]),
        ({"type": "other_%*"}, []),
        ({"lane": "bulk"}, ["e3"]),
        ({"key_id": "k2"}, ["e2"]),
        ({"event": "e1"}, ["e1"]),
        ({"trace": make.trace, "lane": "bulk"}, ["e3"]),
        ({"origin": "replay"}, []),
        ({"tenant": "t2"}, []),
        ({"received_from": make.start.isoformat(), "received_to": (make.start + HOUR).isoformat()}, ["e1"]),
    ):
        assert [one["event_id"] for one in await ledger.search(**query)] == events, query
    assert [one["reason"] for one in await ledger.search(outcome="rejected")] == ["no_secret", "bad_signature"]
    assert len(await ledger.search(reason="no_secret")) == 1


async def test_pages_show_every_delivery_once_even_when_some_arrive_meanwhile(ledger: Any, make: Any) -> None:
    one_request = uuid7()
    batch = [make.accepted(f"b{i}", delivery=one_request, item=i, items=4) for i in range(4)]
    await ledger.store(*batch, *(make.accepted(f"e{i}", at=make.start + timedelta(seconds=i % 3)) for i in range(9)))
    seen: list[str] = []
    after: str | None = None
    while True:
        page = await ledger.get("/v1/deliveries", **({"limit": 2} | ({"after": after} if after else {})))
        seen += [one["event_id"] for one in page["items"]]
        await ledger.store(make.accepted(f"late{len(seen)}", at=make.start + timedelta(days=1)))
        after = page["next"]
        if after is None:
            break
    assert sorted(seen) == sorted([f"b{i}" for i in range(4)] + [f"e{i}" for i in range(9)])


async def test_a_json_path_finds_bodies_newest_first_over_many_days_in_pages(ledger: Any, make: Any) -> None:
    await ledger.store(
        *(
            make.accepted(
                f"e{day}", at=make.start - timedelta(days=day), body=json.dumps({"data": {"amount": day}}).encode()
            )
            for day in range(40)
        ),
        make.accepted("text", body=b"amount=1"),
    )
    found = await ledger.search(path="$.data.amount ? (@ == 39)")
    assert [one["event_id"] for one in found] == ["e39"]
    assert [one["event_id"] for one in await ledger.search(path="$.data ? (@.amount < 3)")] == ["e0", "e1", "e2"]
    seen: list[str] = []
    query: dict[str, Any] = {"path": "$.data ? (@.amount >= 0)", "limit": 7}
    while True:
        page = await ledger.get("/v1/deliveries", **query)
        seen += [one["event_id"] for one in page["items"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert seen == [f"e{day}" for day in range(40)]
    narrow = {"path": "$.data.amount", "received_to": (make.start - timedelta(days=38)).isoformat()}
    assert [one["event_id"] for one in await ledger.search(**narrow)] == ["e39"]


async def test_bad_questions_are_answered_by_name(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1"))
    for query, field in (
        ({"outcome": "lost"}, "outcome"),
        ({"colour": "red"}, "colour"),
        ({"limit": "0"}, "limit"),
        ({"lane": "fast"}, "lane"),
        ({"received_from": "yesterday"}, "received_from"),
        ({"received_from": "2026-01-01T00:00:00"}, "received_from"),
        ({"after": "nonsense"}, "after"),
        ({"path": "data.amount"}, "path"),
        ({"path": "$.data ? ("}, "path"),
        ({"path": "$" + "." * 600}, "path"),
        ({"path": '$.a ? (@ like_regex "(")'}, "path"),
    ):
        answer = await ledger.client.get("/v1/deliveries", params=query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), query
    export = await ledger.client.get("/v1/deliveries/export", params={"path": "$.data ? ("})
    assert (export.status_code, export.json()["code"]) == (422, "bad_path")


async def test_an_export_streams_all_that_match_redacted_and_is_audited(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint(redact=("/email",)))
    body = b'{"email": "someone@example.test", "n": 1}'
    await ledger.store(
        *(make.accepted(f"e{i}", at=make.start + timedelta(seconds=i), body=body) for i in range(70)), make.rejected()
    )
    answer = await ledger.client.get("/v1/deliveries/export", params={"outcome": "accepted"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [line["event_id"] for line in lines] == [f"e{i}" for i in reversed(range(70))]
    assert {json.dumps(line["body"]) for line in lines} == {'{"email": "[redacted]", "n": 1}'}
    assert [(one.action, one.actor) for one in await ledger.audited()] == [("deliveries.exported", "tester")]


async def test_redacted_fields_and_cards_are_neither_shown_nor_searched_but_to_an_audited_admin(
    ledger: Any, make: Any
) -> None:
    ledger.configure(make.endpoint(redact=("/customer/email", "/lines/*/note")))
    delivery = uuid7()
    body = (
        b'{"customer": {"email": "a@b.test"}, "lines": [{"note": "x"}, {"note": "y", "n": 1}],'
        b' "memo": "paid by 4111 1111 1111 1111"}'
    )
    await ledger.store(make.accepted("e1", delivery=delivery, body=body, signed=(("x-acme-token", "hush"),)))
    [item] = (await ledger.get(f"/v1/deliveries/{delivery}"))["items"]
    assert item["body"] == {
        "customer": {"email": "[redacted]"},
        "lines": [{"note": "[redacted]"}, {"note": "[redacted]", "n": 1}],
        "memo": "paid by 4111 11** **** 1111",
    }
    assert item["headers"] == [["x-acme-token", "[redacted]"]]
    assert await ledger.search(path='$.customer.email ? (@ starts with "a@")') == []
    refused = await ledger.client.get(f"/v1/deliveries/{delivery}", params={"raw": "true"})
    assert (refused.status_code, refused.json()["code"]) == (403, "wrong_role")
    assert await ledger.audited() == []
    admin = ledger.issuer.headers(Role.ADMIN, subject="boss")
    answer = await ledger.client.get(f"/v1/deliveries/{delivery}", params={"raw": "true"}, headers=admin)
    assert answer.json()["items"][0]["body"] == json.loads(body)
    [seen] = await ledger.audited()
    assert (seen.action, seen.actor, seen.target) == ("raw_body.seen", "boss", f"delivery:{delivery}")


async def test_a_body_that_cannot_be_redacted_is_not_shown(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint(redact=("/email",)))
    plain, form, batch = uuid7(), uuid7(), uuid7()
    await ledger.store(
        make.accepted("e1", delivery=plain, body=b"<email>a@b.test</email>"),
        make.accepted("e2", delivery=batch, body=b'{"events": [{"email": "a@b.test"}]}', items=1, place="/events/0"),
    )
    message = make.accepted("e3", delivery=form, body=b"email=a%40b.test&n=1")
    message.envelope.content_type = "application/x-www-form-urlencoded"
    await ledger.store(message)
    bodies = [(await ledger.get(f"/v1/deliveries/{one}"))["items"][0]["body"] for one in (plain, form, batch)]
    assert bodies[0].startswith("[not shown")
    assert bodies[1:] == [{"email": "[redacted]", "n": "1"}, {"email": "[redacted]"}]
