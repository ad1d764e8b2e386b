"""What bulk may come in while its consumers are behind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.kafka.backlog import Backlog
from webhook_gateway.drain import (
    FREE_BELOW_S,
    MEASURE_S,
    SHUT_ABOVE_S,
    SLOW_ABOVE_S,
    SLOW_FACTOR,
    DrainRule,
    worth_telling,
)

RATE = 100.0


class Consumer:
    """A group that works off `rate` records a second from a backlog of `waiting`."""

    def __init__(self, waiting: float) -> None:
        self.rule = DrainRule()
        self.now = 0.0
        self.waiting = waiting
        self.committed = 0.0

    def step(self, arriving: float = 0.0, rate: float = RATE) -> float | None:
        self.now += MEASURE_S
        done = min(self.waiting + arriving * MEASURE_S, rate * MEASURE_S)
        self.waiting += arriving * MEASURE_S - done
        self.committed += done
        return self.rule.decide(self.now, {"group": Backlog(round(self.waiting), round(self.committed))})

    def settle(self, steps: int = 30, arriving: float = RATE, rate: float = RATE) -> float | None:
        limit = None
        for _ in range(steps):
            limit = self.step(arriving, rate)
        return limit


def test_a_short_wait_limits_nothing() -> None:
    assert Consumer(waiting=RATE * SLOW_ABOVE_S * 0.9).settle() is None


def test_a_long_wait_slows_bulk_below_the_rate_at_which_it_drains() -> None:
    limit = Consumer(waiting=RATE * SLOW_ABOVE_S * 2).settle()
    assert limit == pytest.approx(RATE * SLOW_FACTOR, rel=0.05)


def test_with_the_limit_the_backlog_shrinks_until_it_is_lifted_and_stays_lifted() -> None:
    consumer = Consumer(waiting=RATE * SLOW_ABOVE_S * 2)
    limit = consumer.settle()
    limits = []
    for _ in range(400):
        limit = consumer.step(arriving=RATE * 2 if limit is None else limit)
        limits.append(limit)
        if limit is None:
            break
    assert limits[-1] is None
    assert consumer.waiting / RATE < FREE_BELOW_S + 2 * MEASURE_S
    assert all(one is not None for one in limits[:-1]), "between the two marks the limit stays"


def test_a_backlog_of_ten_minutes_shuts_bulk() -> None:
    assert Consumer(waiting=RATE * SHUT_ABOVE_S * 1.5).settle() == 0.0


def test_a_consumer_that_stands_still_shuts_bulk_and_opens_it_when_it_works_again() -> None:
    consumer = Consumer(waiting=10_000)
    assert consumer.settle(rate=0.0, arriving=10) == 0.0
    consumer.settle(steps=200, arriving=0, rate=RATE * 10)
    assert consumer.rule.limit is None


def test_nobody_is_judged_by_one_measurement() -> None:
    assert DrainRule().decide(1.0, {"group": Backlog(10**9, 0)}) is None


def test_a_group_without_work_is_not_slow() -> None:
    consumer = Consumer(waiting=0)
    assert consumer.settle(arriving=0) is None
    assert consumer.rule.waits_s == 0


def test_the_slowest_group_decides() -> None:
    rule = DrainRule()
    for step in range(1, 30):
        done = step * 100
        rule.decide(step * 1.0, {"fast": Backlog(10, done * 10), "slow": Backlog(30_000, done)})
    assert rule.waits_s == pytest.approx(300, rel=0.1)
    assert rule.limit == pytest.approx(100 * SLOW_FACTOR, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**4)), min_size=1, max_size=50))
def test_whatever_is_measured_the_limit_is_none_or_not_negative(measured: list[tuple[int, int]]) -> None:
    rule, committed = DrainRule(), 0
    for step, (waiting, done) in enumerate(measured):
        committed += done
        limit = rule.decide(step * MEASURE_S, {"group": Backlog(waiting, committed)})
        assert limit is None or limit >= 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (None, None, False),
        (None, 5, True),
        (5, None, True),
        (100, 110, False),
        (100, 130, True),
        (0, 0, False),
        (0, 1, True),
        (1, 0, True),
    ],
)
def test_only_a_real_change_is_told(old: float | None, new: float | None, *, told: bool) -> None:
    assert worth_telling(old, new) is told
