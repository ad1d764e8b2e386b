"""The watch: silence, drift and rejections as issues, and what people do with them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from contracts.codec import decode
from contracts.events.gateway import SourceFellSilent
from contracts.ids import uuid7
from contracts.topics import GATEWAY_SILENCES
from webhook_gateway.shapes import LEARN_BODIES
from webhook_gateway.silence import MIN_HISTORY

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

HOUR = timedelta(hours=1)
WEEKS = MIN_HISTORY + timedelta(days=7)


async def speak_for_weeks(ledger: Any, make: Any, endpoint: str = "ep-1") -> None:
    """Two deliveries an hour, up to now."""
    hours = int(WEEKS / HOUR)
    await ledger.store(
        *(
            make.accepted(f"{endpoint}{i}", endpoint=endpoint, at=ledger.clock.now() - i * HOUR / 2)
            for i in range(2 * hours)
        )
    )


async def issues(ledger: Any, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await ledger.get("/v1/issues", **query))["items"]
    return found


async def test_a_source_that_falls_silent_is_an_issue_until_it_speaks_again(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint())
    await speak_for_weeks(ledger, make)
    await ledger.watch.look_for_silence()
    assert await issues(ledger, kind="silence") == []
    ledger.clock.advance(8 * 3600)
    await ledger.watch.look_for_silence()
    await ledger.watch.look_for_silence()
    [issue] = await issues(ledger, kind="silence", state="open")
    assert (issue["endpoint"], issue["tenant"], issue["occurrences"], issue["detail"]["mode"]) == (
        *("ep-1", "t1", 1),
        "learned",
    )
    # Two looks, one message: whoever can fetch what was missed is told once.
    [(_, key, told)] = await ledger.outbox(GATEWAY_SILENCES.name)
    assert (key, told.tenant, decode(SourceFellSilent, told.data).provider) == ("ep-1", "t1", "acme")
    await ledger.store(make.accepted("fetched", at=ledger.clock.now(), origin="reconcile"))
    await ledger.watch.look_for_silence()
    assert [one["state"] for one in await issues(ledger, kind="silence")] == ["open"]
    await ledger.store(make.accepted("again", at=ledger.clock.now()))
    await ledger.watch.look_for_silence()
    assert [one["state"] for one in await issues(ledger, kind="silence")] == ["resolved"]


async def test_modes_of_an_endpoint_decide(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint("off", arrivals={"mode": "off"}))
    ledger.configure(make.endpoint("fixed", arrivals={"mode": "fixed", "max_gap_s": 600}))
    ledger.configure(make.endpoint("young"))
    await speak_for_weeks(ledger, make, "off")
    await speak_for_weeks(ledger, make, "gone")
    await ledger.store(*(make.accepted(one, endpoint=one) for one in ("fixed", "young")))
    ledger.clock.advance(601)
    await ledger.watch.look_for_silence()
    assert [one["endpoint"] for one in await issues(ledger, kind="silence")] == ["fixed"]
    ledger.clock.advance(30 * 86400)
    await ledger.watch.look_for_silence()
    assert [one["endpoint"] for one in await issues(ledger, kind="silence")] == ["fixed"]
    ledger.configure(make.endpoint("fixed", arrivals={"mode": "off"}, version=2))
    await ledger.watch.look_for_silence()
    assert [one["state"] for one in await issues(ledger, kind="silence")] == ["resolved"]


async def test_nobody_is_silent_while_the_ledger_is_behind(ledger: Any, make: Any) -> None:
    ledger.configure(make.endpoint(arrivals={"mode": "fixed", "max_gap_s": 60}))
    assert not ledger.pulse.is_current()
    ledger.clock.advance(3600)
    assert ledger.pulse.is_current()
    await ledger.store(make.accepted("old"))
    assert not ledger.pulse.is_current()
    await ledger.watch.look()
    assert await issues(ledger) == []
    await ledger.store(make.accepted("new", at=ledger.clock.now()))
    assert ledger.pulse.is_current()


async def test_rejections_are_an_issue_for_as_long_as_they_last(ledger: Any, make: Any) -> None:
    await ledger.store(*(make.rejected() for _ in range(19)))
    await ledger.watch.look_for_rejections()
    assert await issues(ledger) == []
    await ledger.store(make.rejected("no_secret"), *(make.accepted(f"e{i}") for i in range(20)))
    await ledger.watch.look_for_rejections()
    [issue] = await issues(ledger, kind="rejections")
    assert issue["detail"] == {"rejected": 20, "deliveries": 40, "reason": "bad_signature"}
    ledger.clock.advance(2 * 3600)
    await ledger.watch.look_for_rejections()
    assert [one["state"] for one in await issues(ledger, kind="rejections")] == ["resolved"]


async def test_a_changed_body_is_a_drift_issue_and_the_shape_is_shown(ledger: Any, make: Any) -> None:
    async def send(count: int, **more: Any) -> None:
        for i in range(count):
            body = {"id": f"x{i}", "amount": 5, "lines": [{"sku": "a"}]} | more
            await ledger.store(make.accepted(str(uuid7()), body=json.dumps(body).encode(), apiversion="v1"))
            await ledger.watch.learn_shapes()

    await send(LEARN_BODIES + 5)
    assert await issues(ledger) == []
    await send(2, amount="5", currency="EUR")
    [issue] = await issues(ledger, kind="drift")
    assert (issue["subject"], issue["provider"]) == ("acme:thing.made:v1", "acme")
    assert issue["detail"] == {"new": ["$.currency"], "retyped": ["$.amount"]}
    shape = await ledger.get("/v1/shapes/acme/thing.made")
    [version] = shape["versions"]
    assert (version["api_version"], version["state"], version["bodies"]) == ("v1", "known", LEARN_BODIES + 7)
    assert version["paths"]["$.amount"]["types"] == ["number", "string"]
    assert "$.lines[].sku" in version["paths"]
    assert (await ledger.client.get("/v1/shapes/acme/other/type")).status_code == 404


async def test_an_issue_is_acknowledged_by_somebody(ledger: Any, make: Any) -> None:
    await ledger.store(make.accepted("e1"), make.accepted("e1", body=b"{}", at=make.start + HOUR))
    [issue] = await issues(ledger)
    path = f"/v1/issues/{issue['id']}/acknowledge"
    answer = await ledger.post(path)
    assert (answer.json()["state"], answer.json()["acknowledged_by"]) == ("acknowledged", "tester")
    # The same trouble again is counted on it, not opened beside it.
    await ledger.store(make.accepted("e1", body=b"[]", at=make.start + 2 * HOUR))
    [again] = await issues(ledger)
    assert (again["state"], again["occurrences"]) == ("acknowledged", 2)
    assert (await ledger.post(f"/v1/issues/{uuid7()}/acknowledge")).status_code == 404
    assert [one.action for one in await ledger.audited()] == ["issue.acknowledged"]


async def test_analytics_group_and_slice_time(ledger: Any, make: Any) -> None:
    await ledger.store(
        *(make.accepted(f"a{i}", at=make.start + i * HOUR) for i in range(3)),
        *(make.accepted(f"b{i}", provider="other", verifiedat=make.start + timedelta(seconds=2)) for i in range(2)),
        make.accepted("a0", at=make.start + HOUR / 2),
        make.rejected("stale_timestamp"),
        make.accepted("held", quarantine="paused"),
    )
    ledger.clock.advance(600)
    span = {"from": make.start.isoformat(), "to": (make.start + 3 * HOUR).isoformat()}
    found = await ledger.get("/v1/analytics/deliveries", **span)
    assert found["oldest_held_s"] == 600
    by = {one["provider"]: one for one in found["items"]}
    assert by["acme"]["outcomes"] == {"accepted": 3, "duplicate": 1, "held": 1, "rejected": 1}
    assert by["acme"]["rejected"] == {"stale_timestamp": 1}
    assert by["other"]["accept_latency_ms"] == {"p50": 2500.0, "p95": 2500.0, "p99": 2500.0}
    hourly = await ledger.get("/v1/analytics/deliveries", interval="hour", group_by="tenant,type", **span)
    assert [one["deliveries"] for one in hourly["items"] if one["type"]] == [5, 1, 1]
    for query, field in (
        ({"group_by": "colour"}, "group_by"),
        ({"group_by": "type,type"}, "group_by"),
        ({"interval": "minute"}, "interval"),
        ({"from": span["to"], "to": span["from"]}, "from"),
        ({"from": "2020-01-01T00:00:00Z"}, "from"),
    ):
        answer = await ledger.client.get("/v1/analytics/deliveries", params=query)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), query
