"""Whether a quota will last, who must slow down for it, and in which words that is said."""

from __future__ import annotations

import pytest

from contracts.events.health import CallClass
from health_monitor.forecast import Use, WindowForecast


def after(limit: float, rates: dict[CallClass, float], seconds: int) -> WindowForecast:
    """Return the forecast of a 100 s window after some seconds of steady use."""
    window = WindowForecast(limit, 100)
    for now in range(1, seconds + 1):
        window.observe(rates, float(now))
    return window


def test_a_quota_that_will_last_trims_nobody_and_alerts_nobody() -> None:
    said = after(1000, {"interactive": 5, "bulk": 2.9}, 849).forecast(850.0)
    assert said.at_end == pytest.approx(0.79, abs=0.01)
    assert (said.trim, said.alert) == ({}, False)


def test_over_eighty_percent_bulk_is_trimmed_in_proportion_and_somebody_is_told() -> None:
    said = after(1000, {"interactive": 5, "bulk": 3.5}, 849).forecast(850.0)
    assert said.alert
    assert set(said.trim) == {"bulk"}
    assert said.trim["bulk"] == pytest.approx(0.25, abs=0.05)
    more = after(1000, {"interactive": 5, "bulk": 4.4}, 849).forecast(850.0)
    assert more.trim["bulk"] > said.trim["bulk"]
    assert "bulk calls lose 25% of their rate" in said.reason


def test_over_ninety_five_percent_without_what_bulk_loses_interactive_calls_lose_too_but_less() -> None:
    said = after(1000, {"interactive": 9.8, "bulk": 0.2}, 849).forecast(850.0)
    assert 0 < said.trim["interactive"] < said.trim["bulk"]
    assert "critical" not in said.trim


def test_what_is_taken_from_bulk_is_not_taken_from_people() -> None:
    said = after(1000, {"interactive": 4, "bulk": 8}, 849).forecast(850.0)
    assert said.at_end == pytest.approx(1.2, abs=0.01)
    assert said.trim == {"bulk": 1.0}


def test_at_ninety_eight_percent_of_actual_use_only_critical_calls_pass() -> None:
    window = WindowForecast(1000, 100)
    window.observe({"bulk": 979}, 10.0)
    assert window.forecast(10.0).trim.get("probe") is None
    window.observe({"critical": 1}, 11.0)
    said = window.forecast(11.0)
    assert said.trim == {"interactive": 1.0, "probe": 1.0, "bulk": 1.0}
    assert "only critical calls" in said.reason


def test_a_new_window_starts_with_nothing_used() -> None:
    window = after(1000, {"bulk": 9}, 99)
    assert window.forecast(99.0).used == pytest.approx(0.891)
    assert window.forecast(100.0).used == 0
    window.observe({"bulk": 9}, 101.0)
    assert window.forecast(101.0).used == pytest.approx(0.009)


def test_growth_is_seen_before_the_level_says_so() -> None:
    steady, growing = Use(), Use()
    for second in range(30):
        steady.observe(29.0, 1.0)
        growing.observe(float(second), 1.0)
    assert growing.trend == pytest.approx(1.0, abs=0.1)
    assert growing.ahead(30) > 30 * growing.level
    assert steady.ahead(30) == pytest.approx(30 * 29, rel=0.01)


def test_a_falling_rate_never_forecasts_less_than_no_use() -> None:
    falling = Use()
    for rate in (100.0, 50.0, 10.0, 0.0, 0.0):
        falling.observe(rate, 1.0)
    assert falling.ahead(3600) >= 0


@pytest.mark.parametrize("seconds", [60, 3600, 86_400])
def test_use_that_has_just_begun_is_not_taken_for_growth(seconds: int) -> None:
    window, step = WindowForecast(seconds, seconds), max(1, seconds // 600)
    said = []
    for now in range(0, 6 * seconds, step):
        window.observe({"bulk": 0.75 * step if now < 3 * seconds else 0.0}, float(now))
        said.append(window.forecast(float(now)).at_end)
    assert 0.7 < max(said) < 0.8
    assert max(said[-len(said) // 3 :]) < 0.05, "and its end is an end"


def test_a_burst_is_not_taken_for_the_rest_of_a_long_window() -> None:
    day = WindowForecast(5000, 86_400)
    for second in range(250):
        day.observe({"bulk": 2}, float(second))
    said = day.forecast(250.0)
    assert said.used == pytest.approx(0.1)
    assert said.at_end < 0.5
    assert said.trim == {}


def test_use_that_goes_on_is_seen_long_before_the_day_is_spent() -> None:
    day, now = WindowForecast(5000, 86_400), 0
    while not day.forecast(float(now)).alert:
        now += 1
        day.observe({"bulk": 0.1}, float(now))
    assert 3600 < now < 5 * 3600, "it would be spent after 14 hours"
    assert day.forecast(float(now)).used < 0.4


def test_reports_of_the_same_instant_do_not_divide_by_zero() -> None:
    window = WindowForecast(100, 10)
    window.observe({"bulk": 1}, 1.0)
    window.observe({"bulk": 1}, 1.0)
    assert window.used == {"bulk": 2}
