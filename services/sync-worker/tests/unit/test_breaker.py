"""The breaker of one worker."""

from __future__ import annotations

from sync_worker.outbound.breaker import ACCOUNT, ROUTE, Breakers
from sync_worker.outbound.route_table import Place

FAILURES, HOLD_S, MAX_HOLD_S = ACCOUNT.failures, ACCOUNT.hold_s, ACCOUNT.max_hold_s
PLACE = ("payer", "payment.refund", "c1")
OTHER = ("payer", "payment.refund", "c2")


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breakers[tuple[str, str, str]], Time]:
    clock = Time()
    breakers: Breakers[tuple[str, str, str]] = Breakers(clock, lambda _low, high: high, ACCOUNT)
    for _ in range(FAILURES):
        breakers.record(PLACE, failed=True)
    return breakers, clock


def test_five_failures_in_a_row_open_it_for_this_account_alone() -> None:
    clock = Time()
    breakers: Breakers[tuple[str, str, str]] = Breakers(clock, lambda _low, high: high, ACCOUNT)
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


def test_what_was_under_way_when_it_opened_extends_the_hold_and_does_not_double_it() -> None:
    breakers, clock = opened()
    clock.now = 1.0
    for _ in range(20):
        breakers.record(PLACE, failed=True)
    assert breakers.shut_for_s(PLACE) == HOLD_S


def test_who_waits_for_a_trial_is_not_told_to_come_back_in_a_minute() -> None:
    breakers, clock = opened()
    clock.now = HOLD_S
    assert breakers.shut_for_s(PLACE) == 0
    assert breakers.shut_for_s(PLACE) == HOLD_S


def test_a_routes_breaker_opens_at_the_second_failure_says_so_once_and_closes_with_a_success() -> None:
    clock = Time()
    told: list[Place] = []
    breakers: Breakers[Place] = Breakers(clock, lambda _low, high: high, ROUTE)
    breakers.on_open = told.append
    route = Place("payer", "payments", "live")
    for _ in range(4):
        breakers.record(route, failed=True)
    assert told == [route]
    assert breakers.shut_for_s(route) == ROUTE.hold_s < ACCOUNT.hold_s
    breakers.record(route, failed=False)
    assert breakers.shut_for_s(route) == 0
