"""Thresholds: the table is what the chain says, and the chain says what the charts do."""

from __future__ import annotations

from random import Random

import pytest

from health_monitor import thresholds
from health_monitor.charts import Chart, Origin
from health_monitor.thresholds import DEGRADED_P1, LATENCY_P0, LATENCY_P1, OUTAGE_P1, calls_to_alarm, derive

ANYBODY = Origin("w", "t", "c")


@pytest.mark.parametrize(
    ("p0", "rate", "outage", "degraded"),
    [
        (0.001, 1, 13.5, 10.6),
        (0.001, 10, 13.5, 14.3),
        (0.005, 1, 11.0, 12.0),
        (0.005, 10, 15.6, 14.2),
        (0.02, 1, 12.9, 11.9),
        (0.02, 10, 15.2, 14.3),
        (0.02, 100, 18.4, 16.6),
    ],
)
def test_the_designs_table_is_derived_again(p0: float, rate: int, outage: float, degraded: float) -> None:
    assert derive(p0, OUTAGE_P1, rate) == pytest.approx(outage, abs=0.15)
    assert derive(p0, DEGRADED_P1, rate) == pytest.approx(degraded, abs=0.15)


@pytest.mark.parametrize("row", range(0, len(thresholds.BASELINES), 2))
@pytest.mark.parametrize("column", [0, 2, 5])
def test_the_shipped_outage_table_is_what_the_chain_says(row: int, column: int) -> None:
    p0, rate = thresholds.BASELINES[row], thresholds.RATES[column]
    assert thresholds.OUTAGE[row][column] == pytest.approx(derive(p0, OUTAGE_P1, rate), abs=0.006)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 0), (4, 2)])
def test_the_shipped_degraded_table_is_what_the_chain_says(row: int, column: int) -> None:
    p0, rate = thresholds.BASELINES[row], thresholds.RATES[column]
    assert thresholds.DEGRADED[row][column] == pytest.approx(derive(p0, DEGRADED_P1, rate), abs=0.006)


def test_the_shipped_latency_thresholds_are_what_the_chain_says() -> None:
    assert thresholds.LATENCY[0] == pytest.approx(derive(LATENCY_P0, LATENCY_P1, 1), abs=0.006)


def test_the_chain_agrees_with_simulated_charts() -> None:
    """Mean calls until a chart trips, at 20 % and at 2 % errors, against 2,000 charts played through."""
    dice = Random(11)
    for p, h, p1 in ((0.2, 14.05, DEGRADED_P1), (0.9, 15.62, OUTAGE_P1), (0.02, 4.0, DEGRADED_P1)):
        lengths = [_played(dice, p, p1, h) for _ in range(2000)]
        assert sum(lengths) / len(lengths) == pytest.approx(calls_to_alarm(p, 0.005, p1, h), rel=0.07)


def _played(dice: Random, p: float, p1: float, h: float) -> int:
    chart, calls = Chart(0.005, p1, h), 0
    while not chart.tripped:
        calls += 1
        if dice.random() < p:
            chart.failed(ANYBODY)
        else:
            chart.passed()
    return calls


def test_a_full_outage_is_seen_within_five_calls_and_a_fifth_of_errors_within_a_minute_of_calls() -> None:
    for p0, row in zip(thresholds.BASELINES[:5], thresholds.OUTAGE[:5], strict=True):
        for h in row[:5]:
            assert calls_to_alarm(1.0, p0, OUTAGE_P1, h) <= 5
    assert calls_to_alarm(0.2, 0.005, DEGRADED_P1, thresholds.DEGRADED[0][2]) < 30


def test_look_ups_round_to_the_safe_side_and_never_leave_the_table() -> None:
    assert thresholds.baseline(0) == 0.005
    assert thresholds.baseline(0.0051) == 0.0075
    assert thresholds.baseline(0.9) == 0.05
    assert thresholds.threshold(thresholds.OUTAGE, 0.005, 0) == 11.03
    assert thresholds.threshold(thresholds.OUTAGE, 0.005, 1.1) == 13.94
    assert thresholds.threshold(thresholds.OUTAGE, 0.005, 10**9) == 20.83
    assert thresholds.latency_threshold(11) == 15.13
