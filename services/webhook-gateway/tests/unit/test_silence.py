"""The expected-arrival model against simulated sources: false alarms within budget, silences found, nights learnt."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from webhook_gateway.silence import BUDGET, MIN_HISTORY, Rhythm, floor, learn

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
WEEKS = MIN_HISTORY / timedelta(weeks=1)
MONTH_HOURS = 730

Rate = Callable[[int], float]


def flat(per_hour: float) -> Rate:
    return lambda _: per_hour


def office(per_hour: float) -> Rate:
    """Weekdays from 8 to 18, nothing else."""
    return lambda hour: per_hour if hour // 24 < 5 and 8 <= hour % 24 < 18 else 0.0


def arrivals(rate: Rate, hours: int, seed: int, burst: float = 1) -> list[datetime]:
    """Simulate a Poisson source; with `burst`, each event is a cluster of so many on average."""
    source = random.Random(seed)
    out: list[datetime] = []
    for hour in range(hours):
        mean, at = rate(hour % 168) / burst, 0.0
        while mean > 0:
            at += source.expovariate(mean)
            if at >= 1:
                break
            size = 1 if burst == 1 else 1 + int(source.expovariate(1 / (burst - 1)))
            out += [MONDAY + (hour + at) * HOUR] * size
    return out


def rhythm_at(hours: Counter[datetime], now: datetime) -> Rhythm | None:
    return learn({hour: count for hour, count in hours.items() if hour < floor(now)}, MONDAY, now)


def known(rate: Rate, seed: int = 1, weeks: float = WEEKS, burst: float = 1) -> tuple[Rhythm, datetime]:
    events = arrivals(rate, int(weeks * 168), seed, burst)
    found = rhythm_at(Counter(map(floor, events)), MONDAY + timedelta(weeks=weeks))
    assert found is not None
    return found, events[-1]


def false_alarms(rate: Rate, seed: int, burst: float = 1) -> int:
    """Count the alarms of a month after the shortest history, learning anew every day as the ledger does hourly."""
    begin = int(WEEKS * 168)
    events = arrivals(rate, begin + MONTH_HOURS, seed, burst)
    start, end = MONDAY + begin * HOUR, MONDAY + (begin + MONTH_HOURS) * HOUR
    last, hours = max(at for at in events if at < start), Counter(map(floor, events))
    rhythm, learnt, alarms = rhythm_at(hours, start), start, 0
    for at in [*(at for at in events if at >= start), end]:
        if last - learnt > 24 * HOUR:
            rhythm, learnt = rhythm_at(hours, last), last
        assert rhythm is not None
        alarms += rhythm.silent(last, at)
        last = at
    return alarms


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(flat(0.3), 1), (flat(2), 1), (flat(20), 1), (office(1), 1), (office(12), 1), (flat(5), 5)],
    ids=["rare", "steady", "frequent", "office-rare", "office", "bursts"],
)
def test_a_normal_month_stays_within_the_promise_of_one_false_alarm(rate: Rate, burst: float) -> None:
    """The promise is one per endpoint and month; the mean of many is held to it, with the shortest history."""
    months = 12
    assert sum(false_alarms(rate, seed, burst) for seed in range(months)) <= months


@pytest.mark.parametrize("per_hour", [0.5, 2, 20, 200])
def test_a_steady_source_that_stops_is_noticed_within_so_many_gaps(per_hour: float) -> None:
    rhythm, last = known(flat(per_hour), weeks=8)
    due = next(n for n in range(1, 200) if rhythm.silent(last, last + n / per_hour * HOUR))
    # ln(arrivals a month / budget), a fifth more for what the history leaves open.
    assert due <= 1.3 * math.log(per_hour * MONTH_HOURS / BUDGET) + 2


def test_nights_and_weekends_are_learnt() -> None:
    rhythm, _ = known(office(10))
    friday_evening = MONDAY + timedelta(weeks=2, days=4, hours=17, minutes=55)
    monday_morning = MONDAY + timedelta(weeks=3, hours=8, minutes=10)
    assert not rhythm.silent(friday_evening, monday_morning)
    assert rhythm.silent(friday_evening, monday_morning + 3 * HOUR)
    due = rhythm.due(friday_evening)
    assert due is not None
    assert MONDAY + timedelta(weeks=3, hours=8) < due <= MONDAY + timedelta(weeks=3, hours=11)


def test_a_bursty_source_gets_more_patience_than_a_smooth_one_of_the_same_rate() -> None:
    smooth, _ = known(flat(6), weeks=8)
    bursty, _ = known(flat(6), weeks=8, burst=6)
    assert bursty.dispersion > 3
    assert 1 <= smooth.dispersion < 1.5
    gap = timedelta(hours=3)
    assert smooth.surprise(MONDAY, MONDAY + gap) > 3 * bursty.surprise(MONDAY, MONDAY + gap)


def test_nothing_is_said_before_two_weeks_or_of_hardly_any_arrivals() -> None:
    now = MONDAY + MIN_HISTORY
    plenty = {MONDAY + n * HOUR: 5 for n in range(300)}
    assert learn(plenty, MONDAY + HOUR, now) is None
    assert learn(plenty, MONDAY, now) is not None
    assert learn({MONDAY: 49}, MONDAY, now) is None
    assert learn({}, MONDAY, now) is None


def test_an_outage_that_was_an_issue_is_not_learnt_as_normal() -> None:
    now = MONDAY + timedelta(weeks=4)
    hours = {MONDAY + n * HOUR: 4 for n in range(4 * 168)}
    outage = (MONDAY + timedelta(weeks=3), MONDAY + timedelta(weeks=3, days=2))
    quiet = {hour: count for hour, count in hours.items() if not outage[0] <= hour < outage[1]}
    full, left_out, learnt = learn(hours, MONDAY, now), learn(quiet, MONDAY, now, [outage]), learn(quiet, MONDAY, now)
    assert full is not None and left_out is not None and learnt is not None  # noqa: PT018
    assert left_out.per_month == pytest.approx(full.per_month)
    assert learnt.per_month < 0.95 * full.per_month


def test_a_silence_of_months_costs_no_more_than_one_of_weeks() -> None:
    rhythm, last = known(flat(2))
    assert rhythm.surprise(last, last + timedelta(days=3650)) == rhythm.surprise(last, last + timedelta(weeks=8))
    assert rhythm.surprise(last, last) == 0
    assert not rhythm.silent(last, last - HOUR)
