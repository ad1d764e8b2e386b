"""Where a provider's windows turn, as its answers show it."""

from __future__ import annotations

import random

import pytest

from sync_worker.limiter.phases import CLOCK_ERROR_S, TurnSeen, WindowPhase

LIMIT, SECONDS = 1000.0, 10.0


def _inside(seen: TurnSeen, turn: float) -> bool:
    """Tell whether one of the turns at `turn` + k windows lies in the interval."""
    off = (turn - seen.earliest) % SECONDS
    return off <= seen.latest - seen.earliest


def test_whole_seconds_to_the_reset_place_the_turn_within_a_second_either_way() -> None:
    for rounded in (3.0, 4.0):  # of 3.4 seconds: down, and up
        seen = WindowPhase(SECONDS).observe(LIMIT, None, rounded, 100.0, 100.05)
        assert seen is not None
        assert _inside(seen, 103.4)
        assert seen.way_s == pytest.approx(0.05)


def test_units_that_come_back_place_the_turn_between_the_two_calls() -> None:
    phase = WindowPhase(SECONDS)
    assert phase.observe(LIMIT, 200, None, 100.0, 100.04) is None
    assert phase.observe(LIMIT, 150, None, 100.1, 100.14) is None
    seen = phase.observe(LIMIT, 990, None, 100.2, 100.24)
    assert seen is not None
    assert seen.earliest == pytest.approx(100.1 - CLOCK_ERROR_S)
    assert seen.latest == pytest.approx(100.24 + CLOCK_ERROR_S)


def test_a_few_units_more_are_answers_that_overtook_each_other() -> None:
    phase = WindowPhase(SECONDS)
    assert [phase.observe(LIMIT, left, None, 100.0 + left / 1e5, 100.1) for left in (500, 499, 520, 500)] == [None] * 4


def test_units_after_a_long_silence_say_nothing_of_when() -> None:
    phase = WindowPhase(SECONDS)
    phase.observe(LIMIT, 100, None, 100.0, 100.1)
    assert phase.observe(LIMIT, 1000, None, 115.0, 115.1) is None


def test_windows_of_a_second_are_not_placed_by_whole_seconds() -> None:
    assert WindowPhase(1.0).observe(25, 10, 1.0, 100.0, 100.1) is None


def test_the_same_is_told_once_and_what_contradicts_is_told_again() -> None:
    phase = WindowPhase(SECONDS)
    told = [phase.observe(LIMIT, None, 3.0, at, at) for at in (100.0, 110.0, 120.0)]
    assert [one is not None for one in told] == [True, False, False]
    moved = phase.observe(LIMIT, None, 8.0, 130.0, 130.0)
    assert moved is not None
    assert _inside(moved, 138.0)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_told_the_turn_lies_in_it(seed: int) -> None:
    source = random.Random(seed)
    turn, at, used, index = source.uniform(0, SECONDS), 1000.0, 0, -1
    phase, widths = WindowPhase(SECONDS), []
    for _ in range(3000):
        at += source.expovariate(60)
        way = source.uniform(0.01, 0.08)
        counted = at + way * source.random()
        if (counted - turn) // SECONDS != index:
            index, used = int((counted - turn) // SECONDS), 0
        used += 1
        left_s = SECONDS - (counted - turn) % SECONDS
        seen = phase.observe(LIMIT, LIMIT - used, float(int(left_s) + 1), at, at + way)
        if seen is not None:
            assert _inside(seen, turn)
            widths.append(seen.latest - seen.earliest)
    assert widths[-1] < 0.2, "within five windows it is known to a fraction of a second"
