"""Sums by minute, and what is said about a window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from contracts.events.sync import CallRun, CallsObserved, Outcome
from health_monitor.statistics import RouteKey, by_minute, summary

AT = datetime(2026, 1, 1, 12, 0, 59, 999_999, tzinfo=UTC)


def run(outcome: Outcome, count: int, latency_ms: float) -> CallRun:
    return CallRun(
        operation="op",
        outcome=outcome,
        count=count,
        tenant="t",
        credential="c",
        latency_ms_sum=latency_ms * count,
        latency_ms_max=latency_ms,
    )


def observed(at: datetime, *runs: CallRun, worker: str = "w") -> CallsObserved:
    return CallsObserved(worker=worker, provider="acme", capability="x.y", observed_at=at, runs=runs)


def test_calls_of_all_workers_add_up_by_minute() -> None:
    buckets = by_minute(
        [
            observed(AT, run("success", 3, 10)),
            observed(AT - timedelta(seconds=30), run("success", 1, 50), run("timeout", 2, 1000), worker="other"),
            observed(AT + timedelta(seconds=1), run("throttled", 1, 5)),
        ]
    )
    noon = AT.replace(second=0, microsecond=0)
    key = RouteKey("acme", "x.y", "live")
    assert set(buckets) == {(key, noon), (key, noon + timedelta(minutes=1))}
    first = buckets[key, noon]
    assert (first.counts["success"], first.counts["timeout"], first.latency_ms_max) == (4, 2, 1000)
    assert first.latency_ms_sum == 3 * 10 + 50 + 2 * 1000


def test_calls_of_the_two_modes_do_not_add_up() -> None:
    live = observed(AT, run("success", 3, 10))
    buckets = by_minute([live, live.model_copy(update={"mode": "sandbox", "runs": (run("timeout", 2, 10),)})])
    told = {key.mode: (bucket.counts["success"], bucket.counts["timeout"]) for (key, _), bucket in buckets.items()}
    assert told == {"live": (3, 0), "sandbox": (0, 2)}


def test_the_success_rate_leaves_out_our_errors_and_quotas() -> None:
    totals = {"success": 3, "timeout": 1, "client_error": 5, "throttled": 7, "latency_ms_sum": 160.0}
    said = summary(totals | {"latency_ms_max": 90.0})
    assert (said["success_rate"], said["calls"], said["latency_ms_mean"], said["latency_ms_max"]) == (0.75, 16, 10, 90)


def test_no_calls_have_no_rate_rather_than_a_perfect_one() -> None:
    said = summary(None)
    assert (said["calls"], said["success_rate"], said["latency_ms_mean"], said["latency_ms_max"]) == (
        0,
        None,
        None,
        None,
    )
    assert summary({"throttled": 2, "latency_ms_sum": 4.0, "latency_ms_max": 3.0})["success_rate"] is None
