"""The promise about wrong failovers, on seeds that nobody looked at while the detector was tuned."""

from __future__ import annotations

from random import Random

import pytest

from tools.simulate_health import ALL, AMONG, ONE, UNSEEN_SEED, Whose, seconds_until_degraded, wrong_failovers

# `make simulate-health` plays thirty days of each kind with the seeds from `UNSEEN_SEED`; a test has to be quick.
DAYS = 4
SEED = UNSEEN_SEED + 500


@pytest.mark.parametrize(("rate", "whose"), [(2, ALL), (10, ONE), (10, AMONG), (10, ALL)])
def test_errors_in_runs_of_three_shut_no_route(rate: float, whose: Whose) -> None:
    assert wrong_failovers(rate, whose, DAYS, SEED) == 0


def test_a_fifth_of_errors_is_seen_in_seconds_all_the_same() -> None:
    seconds = sorted(seconds_until_degraded(Random(SEED + number)) for number in range(100))
    assert seconds[50] < 5
    assert seconds[95] < 10
