"""Order and shares: who takes over, who must not, and the panic guard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contracts.events.health import RouteState
from health_monitor.failover import PanicGuard, Plan, Standing, order_of, shares

UP, DOWN = Standing(RouteState.HEALTHY, 100), Standing(RouteState.DOWN, 0)
SHUT = Standing(RouteState.FORCED_DOWN, 0)
HALF, CANARY = Standing(RouteState.DEGRADED, 50), Standing(RouteState.RECOVERING, 5)


def test_without_a_plan_the_first_by_name_takes_everything() -> None:
    assert order_of(Plan(), ["b", "a"]) == ("a", "b")
    assert shares(Plan(), {"b": UP, "a": UP}) == {"a": 100, "b": 0}


def test_planned_providers_come_first_and_others_behind_them() -> None:
    plan = Plan(("c", "a"), {"c": 70, "a": 30})
    assert order_of(plan, ["a", "b", "c"]) == ("c", "a", "b")
    assert shares(plan, {"a": UP, "b": UP, "c": UP}) == {"c": 70, "a": 30, "b": 0}


def test_what_a_provider_may_not_take_goes_to_the_next_healthy_one() -> None:
    assert shares(Plan(), {"a": DOWN, "b": DOWN, "c": UP}) == {"a": 0, "b": 0, "c": 100}
    assert shares(Plan(), {"a": HALF, "b": UP}) == {"a": 50, "b": 50}
    assert shares(Plan(), {"a": CANARY, "b": UP}) == {"a": 5, "b": 95}
    assert shares(Plan(("b", "a")), {"a": UP, "b": DOWN}) == {"b": 0, "a": 100}


def test_a_backup_that_is_not_healthy_or_has_no_quota_gets_nothing() -> None:
    assert shares(Plan(), {"a": DOWN, "b": HALF}) == {"a": 100, "b": 0}
    unknown = Standing(RouteState.UNKNOWN, 100)
    assert shares(Plan(), {"a": DOWN, "b": unknown}) == {"a": 100, "b": 0}
    assert shares(Plan(), {"a": DOWN, "b": UP, "c": UP}, lambda name: name != "b") == {"a": 0, "b": 0, "c": 100}


def test_when_all_are_down_the_least_bad_takes_it_and_never_one_that_an_operator_shut() -> None:
    worse, better = Standing(RouteState.DOWN, 0, 0.9), Standing(RouteState.DOWN, 0, 0.4)
    assert shares(Plan(), {"a": worse, "b": better, "c": SHUT}) == {"a": 0, "b": 100, "c": 0}
    assert shares(Plan(), {"a": SHUT, "b": DOWN}) == {"a": 0, "b": 100}


STANDINGS = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(Standing, st.sampled_from(RouteState), st.sampled_from([0, 5, 25, 50, 100]), st.floats(0, 1)),
    min_size=1,
)


@given(STANDINGS)
def test_all_calls_have_a_place_and_takers_are_fit(standings: dict[str, Standing]) -> None:
    given_shares = shares(Plan(), standings)
    assert sum(given_shares.values()) == 100
    assert set(given_shares) == set(standings)
    first, *others = order_of(Plan(), list(standings))
    by_operator = {RouteState.FORCED_DOWN, RouteState.MAINTENANCE}
    for name in (name for name in others if given_shares[name]):
        fit = standings[name].state in (RouteState.HEALTHY, RouteState.FORCED_UP)
        all_down = all(one.state in by_operator | {RouteState.DOWN} for one in standings.values())
        assert fit or all_down or standings[first].state in by_operator


def test_no_more_than_half_of_the_providers_are_shut_within_a_minute() -> None:
    guard = PanicGuard()
    for number in range(3):
        assert guard.objection(f"p{number}", 6, float(number)) is None
        guard.shut(f"p{number}", float(number))
    assert guard.objection("p2", 6, 3.0) is None, "it is counted already"
    assert guard.objection("p3", 6, 3.0) == "panic guard: 3 of 6 providers were shut within 60 s"
    assert guard.objection("p3", 6, 61.5) is None
    guard.clear()
    assert guard.objection("p3", 6, 3.0) is None


def test_a_single_provider_may_always_be_shut() -> None:
    assert PanicGuard().objection("only", 1, 0.0) is None
