"""The breaker of one worker."""

from __future__ import annotations

from sync_worker.outbound.breaker import FAILURES, HOLD_S, MAX_HOLD_S, Breakers

PLACE = ("payer", "payment.refund", "c1")
OTHER = ("payer", "payment.refund", "c2")


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breakers, Time]:
    clock = Time()
    breakers = Breakers(clock, lambda _low, high: high)
    for _ in range(FAILURES):
        breakers.record(PLACE, failed=True)
    return breakers, clock


def test_five_failures_in_a_row_open_it_for_this_account_alone() -> None:
    clock = Time()
    breakers = Breakers(clock, lambda _low, high: high)
    for _ in range(FAILURES - 1):
        breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == 0
    breakers.record(PLACE, failed=False)
    for _ in range(FAILURES - 1):
        breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == 0, "a success between them makes the count begin anew"
    breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == HOLD_S
    assert breakers.shut_for_s(OTHER) == 0


def test_one_trial_passes_and_a_failure_extends_the_hold() -> None:
    breakers, clock = opened()
    clock.now = HOLD_S
    assert breakers.shut_for_s(PLACE) == 0
    assert breakers.shut_for_s(PLACE) > 0, "the second call waits for the trial"
    breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == 2 * HOLD_S
    for _ in range(20):
        clock.now += MAX_HOLD_S
        breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == MAX_HOLD_S


def test_a_trial_that_succeeds_closes_it_and_one_that_says_nothing_frees_the_way() -> None:
    breakers, clock = opened()
    clock.now = HOLD_S
    assert breakers.shut_for_s(PLACE) == 0
    breakers.record(PLACE, failed=None)
    assert breakers.shut_for_s(PLACE) == 0
    breakers.record(PLACE, failed=False)
    assert [breakers.shut_for_s(PLACE) for _ in range(3)] == [0, 0, 0]
