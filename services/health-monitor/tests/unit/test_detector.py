"""The detector's rules: each stated limit, and what holds for every sequence of outcomes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events.health import RouteState
from contracts.events.sync import Outcome
from health_monitor.detector import (
    CLEAN_CALLS,
    FAILS_IN_A_ROW,
    GOOD_PROBES,
    VERDICTS,
    WINDOW,
    Run,
    Track,
    Transition,
    Verdict,
    observe,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
runs_strategy = st.lists(st.builds(Run, st.sampled_from(OUTCOMES), st.integers(1, 60)), max_size=40)


def after(*runs: tuple[Outcome, int], start: Track | None = None) -> tuple[Track, list[Transition]]:
    return observe(start or Track(), [Run(outcome, count) for outcome, count in runs], NOW)


def repeated(times: int, *runs: tuple[Outcome, int]) -> list[tuple[Outcome, int]]:
    return list(runs) * times


def healthy() -> Track:
    return after(("success", WINDOW))[0]


def down() -> Track:
    return after(("timeout", FAILS_IN_A_ROW))[0]


def test_the_first_success_makes_a_route_healthy() -> None:
    track, decided = after(("success", 1))
    assert track.state is RouteState.HEALTHY
    assert [(t.before, t.after, t.share, t.reason) for t in decided] == [
        (RouteState.UNKNOWN, RouteState.HEALTHY, 100, "the first call succeeded")
    ]


def test_four_failures_in_a_row_are_no_outage_and_five_are() -> None:
    assert after(("server_error", 4))[0].state is RouteState.UNKNOWN
    track, decided = after(("server_error", 5))
    assert track.state is RouteState.DOWN
    assert (decided[-1].share, decided[-1].reason) == (0, "5 failures in a row (last: server_error)")


@pytest.mark.parametrize("outcome", ["client_error", "throttled"])
def test_our_own_errors_and_quotas_say_nothing_about_the_provider(outcome: Outcome) -> None:
    assert after((outcome, 1000)) == (Track(), [])
    track, decided = after(("timeout", 4), (outcome, 50), ("timeout", 1))
    assert (track.state, len(decided)) == (RouteState.DOWN, 1), "they do not interrupt a row of failures either"


def test_half_of_ten_calls_failing_is_an_outage_even_when_never_five_in_a_row() -> None:
    alternating: list[tuple[Outcome, int]] = [("success", 1), ("timeout", 1)] * 5
    states = [t.after for t in after(*alternating)[1]]
    assert states[0] is RouteState.HEALTHY
    assert states[-1] is RouteState.DOWN
    assert after(*alternating)[1][-1].reason == "5 of the last 10 calls failed (last: timeout)"


def test_a_ratio_over_fewer_than_ten_calls_decides_nothing() -> None:
    assert (
        after(("success", 1), *repeated(2, ("timeout", 2), ("success", 1)), ("timeout", 2))[0].state
        is RouteState.HEALTHY
    )


def test_a_fifth_of_the_last_twenty_failing_degrades_and_half_of_that_clears() -> None:
    track, decided = after(*repeated(4, ("success", 4), ("timeout", 1)), start=healthy())
    assert track.state is RouteState.DEGRADED
    assert (decided[-1].share, decided[-1].reason) == (50, "4 of the last 20 calls failed (last: timeout)")
    at_two = after(("success", 14), start=track)[0]
    assert at_two.state is RouteState.DEGRADED, "10 % is between the limits: no flapping"
    cleared, why = after(("success", 15), start=track)
    assert cleared.state is RouteState.HEALTHY
    assert [t.reason for t in why] == ["1 of the last 20 calls failed"]


def test_recovery_takes_three_good_probes_and_seven_clean_calls() -> None:
    assert after(("success", 2), start=down())[0].state is RouteState.DOWN
    recovering, decided = after(("success", 3), start=down())
    assert (recovering.state, decided[0].share) == (RouteState.RECOVERING, 25)
    assert after(("success", 6), start=recovering)[0].state is RouteState.RECOVERING
    healed, decided = after(("success", 7), start=recovering)
    assert (healed.state, decided[0].share) == (RouteState.HEALTHY, 100)
    assert after(("success", GOOD_PROBES + CLEAN_CALLS), start=down())[0].state is RouteState.HEALTHY


def test_one_failure_while_recovering_goes_back_down() -> None:
    track, decided = after(("success", 3), ("success", 6), ("connect_error", 1), start=down())
    assert track.state is RouteState.DOWN
    assert decided[-1].reason == "a call failed while recovering (connect_error)"


def test_a_failed_probe_starts_the_count_of_good_ones_again() -> None:
    assert after(("success", 2), ("timeout", 1), ("success", 2), start=down())[0].state is RouteState.DOWN


def test_old_failures_do_not_count_after_a_recovery() -> None:
    track, _ = after(("success", 10), ("timeout", 1), start=down())
    assert track.state is RouteState.HEALTHY


@given(runs_strategy)
def test_every_decision_is_a_change_with_a_reason_and_they_form_a_chain(runs: list[Run]) -> None:
    track, decided = observe(Track(), runs, NOW)
    states = [RouteState.UNKNOWN, *(t.after for t in decided)]
    assert [t.before for t in decided] == states[:-1]
    assert all(t.before is not t.after and t.reason and t.decided_at == NOW for t in decided)
    assert track.state is states[-1]
    assert len(track.recent) <= WINDOW


@given(runs_strategy)
def test_how_calls_are_cut_into_runs_changes_nothing(runs: list[Run]) -> None:
    single = [Run(run.outcome) for run in runs for _ in range(run.count)]
    stepped, decided = Track(), []
    for run in single:
        stepped, more = observe(stepped, [run], NOW)
        decided += more
    assert observe(Track(), runs, NOW) == (stepped, decided)


@given(runs_strategy, st.sampled_from([o for o in OUTCOMES if VERDICTS[o] is Verdict.BAD]))
def test_any_route_is_down_after_five_failures_and_healthy_after_ample_successes(
    runs: list[Run], failure: Outcome
) -> None:
    track, _ = observe(Track(), runs, NOW)
    assert observe(track, [Run(failure, FAILS_IN_A_ROW)], NOW)[0].state is RouteState.DOWN
    assert observe(track, [Run("success", WINDOW)], NOW)[0].state is RouteState.HEALTHY


@given(runs_strategy)
def test_down_is_left_through_recovering_only_and_recovering_needs_its_clean_calls(runs: list[Run]) -> None:
    _, decided = observe(Track(), runs, NOW)
    for transition in decided:
        if transition.before is RouteState.DOWN:
            assert transition.after is RouteState.RECOVERING
        if transition.after is RouteState.RECOVERING:
            assert transition.before is RouteState.DOWN


@given(st.integers(1, 10**12))
def test_a_huge_run_costs_no_more_than_a_short_one(count: int) -> None:
    assert after(("success", count))[0].state is RouteState.HEALTHY
