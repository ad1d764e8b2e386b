"""What the health monitor is told of calls."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chassis.testing.clock import ManualClock
from chassis.testing.harness import until
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.sync import ApiVersionSeen, CallsObserved
from contracts.modes import calls_key
from contracts.topics import Topic
from sync_worker.outbound.reports import Call, CallReporter, Slowest
from sync_worker.outbound.route_table import RouteTable

pytestmark = pytest.mark.asyncio


class RecordingPublisher:
    """The port of the publisher."""

    def __init__(self) -> None:
        self.sent: list[CallsObserved] = []
        self.away = False
        self.meanwhile: Callable[[], None] = lambda: None

    async def publish(self, topic: Topic, key: str, envelope: Envelope, *, timeout_s: float = 5.0) -> tuple[int, int]:
        assert (topic.name, timeout_s > 0) == ("sync.calls.v1", True)
        self.meanwhile()
        if self.away:
            raise Transient("broker_unavailable", "away")
        observed = decode(CallsObserved, envelope.data)
        assert key == calls_key(observed.provider, observed.capability, observed.mode)
        self.sent.append(observed)
        return 0, 0


def one(provider: str = "payer") -> Call:
    return Call(provider, "payments", "op", "success", "t1", "c1", probe=False)


def call(report: CallReporter, outcome: Any, provider: str = "payer", **known: Any) -> None:
    """Report a call that took no time."""
    report.ended(report.started(one(provider), 10), outcome, version=known.pop("version", ApiVersionSeen()), **known)


def reporter(publisher: Any, clock: ManualClock | None = None) -> CallReporter:
    return CallReporter(publisher, RouteTable(), clock or ManualClock(), worker="w1")


async def test_equal_calls_in_a_row_are_one_run_in_the_order_of_events() -> None:
    publisher, clock = RecordingPublisher(), ManualClock()
    report = reporter(publisher, clock)
    for outcome in ("success", "success", "timeout", "success"):
        flight = report.started(one(), 10)
        clock.advance(0.5)
        report.ended(flight, outcome, version=ApiVersionSeen())
    await report.flush()
    await report.flush()
    (observed,) = publisher.sent
    assert [(run.outcome, run.count) for run in observed.runs] == [("success", 2), ("timeout", 1), ("success", 1)]
    assert (observed.runs[0].latency_ms_sum, observed.runs[0].latency_ms_max) == (1000, 500)


async def test_a_call_that_is_older_than_usual_counts_as_failed_until_it_succeeds() -> None:
    publisher, clock = RecordingPublisher(), ManualClock()
    report = reporter(publisher, clock)
    hanging, late = report.started(one(), 10), report.started(one(), 10)
    report.count_old()
    clock.advance(10)
    report.count_old()
    report.count_old()
    report.ended(late, "success", version=ApiVersionSeen())
    report.ended(hanging, "timeout", version=ApiVersionSeen())
    await report.flush()
    (observed,) = publisher.sent
    assert [(run.kind, run.outcome, run.count, run.slow) for run in observed.runs] == [
        ("provisional", "timeout", 2, False),
        ("retracted", "timeout", 1, False),
        ("final", "success", 1, True),
    ], "what failed in the end was counted already"


async def test_the_retries_of_one_effect_count_once() -> None:
    publisher = RecordingPublisher()
    report = reporter(publisher)
    for effect in ("e1", "e1", "e2", ""):
        call(report, "server_error", effect=effect)
    await report.flush()
    assert [(run.outcome, run.count) for run in publisher.sent[0].runs] == [("server_error", 3)]


async def test_headers_of_deprecation_are_handed_on_once_a_flush() -> None:
    publisher = RecordingPublisher()
    report = reporter(publisher)
    for _ in range(3):
        call(report, "success", version=ApiVersionSeen(version="v1", sunset="Sat, 01 May 2027 00:00:00 GMT"))
    await report.flush()
    ((seen,),) = [observed.versions for observed in publisher.sent]
    assert (seen.version, seen.sunset) == ("v1", "Sat, 01 May 2027 00:00:00 GMT")


async def test_calls_of_the_sandbox_are_reported_apart_and_keep_their_own_time() -> None:
    publisher, clock = RecordingPublisher(), ManualClock()
    report = reporter(publisher, clock)
    told: list[Any] = []
    report.on_call = lambda place: told.append(place.mode)
    for _ in range(2000):
        report.ended(report.started(replace(one(), mode="sandbox"), 10), "success", version=ApiVersionSeen())
    slow = report.started(one(), 10)
    clock.advance(2)
    report.count_old()
    assert not slow.counted, "what is usual in the sandbox is not what is usual"
    report.ended(slow, "success", version=ApiVersionSeen())
    await report.flush()
    seen = [(calls.mode, [(run.kind, run.count) for run in calls.runs]) for calls in publisher.sent]
    assert seen == [("sandbox", [("final", 2000)]), ("live", [("final", 1)])]
    assert told == ["sandbox"] * 2000 + ["live"]


async def test_only_business_calls_are_told_and_a_failure_only_after_a_success() -> None:
    report = reporter(RecordingPublisher())
    told: list[str] = []
    report.on_call = lambda _place: told.append("call")
    report.on_first_failure = lambda _place: told.append("failure")
    for outcome in ("server_error", "server_error", "success", "throttled", "timeout"):
        call(report, outcome)
    probe = Call("payer", "payments", "probe", "success", "t1", "c1", probe=True)
    report.ended(report.started(probe, 10), "success", version=ApiVersionSeen())
    assert told == ["call", "failure", "call", "call", "call", "call", "failure"]


async def test_the_slowest_hundredth_is_followed() -> None:
    slowest, draw = Slowest(1.0), random.Random(1)
    for _ in range(20_000):
        slowest.observe(draw.uniform(0, 0.1))
    assert 0.08 < slowest.value < 0.12


async def test_a_call_to_somebody_new_during_a_flush_is_reported_next() -> None:
    publisher = RecordingPublisher()
    report = reporter(publisher)
    publisher.meanwhile = lambda: call(report, "success", "newcomer")
    call(report, "success")
    await report.flush()
    publisher.meanwhile = lambda: None
    await report.flush()
    assert [observed.provider for observed in publisher.sent] == ["payer", "newcomer"]


async def test_the_first_failure_leaves_at_once_and_a_lost_report_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync_worker.outbound.reports.FLUSH_INTERVAL_S", 3600)
    publisher = RecordingPublisher()
    report = reporter(publisher)
    task = asyncio.create_task(report.run())

    async def told() -> bool:
        return bool(publisher.sent)

    try:
        call(report, "success")
        call(report, "timeout")
        await until(told, "the failure is reported", 5)
        publisher.away = True
        call(report, "success")
        await report.flush()
        publisher.away = False
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert [run.outcome for run in publisher.sent[0].runs] == ["success", "timeout"]
