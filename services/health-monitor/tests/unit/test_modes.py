"""Live and sandbox: neither shuts, holds back, freezes or steers the other.."""

from __future__ import annotations

from datetime import timedelta

import pytest

from chassis.testing.clock import ManualClock
from contracts.events.health import RouteState
from contracts.modes import MODES, Mode, calls_key
from contracts.topics import SYNC_CALLS
from health_monitor.failover import Plan
from health_monitor.monitor import Configuration, Monitor, Override
from health_monitor.statistics import RouteKey
from health_monitor_support.fleet import START, Fleet

NAMES = ("acme", "beta", "gamma", "delta")


class Both(Fleet):
    """A fleet that calls in either mode."""

    def __init__(self) -> None:
        super().__init__(has_quota=lambda _provider, mode: mode in self.quota)
        self.quota: set[Mode] = set(MODES)

    def state(self, provider: str, mode: Mode) -> RouteState:
        return self.monitor.seen[RouteKey(provider, "sms", mode)].state


@pytest.fixture(params=[("live", "sandbox"), ("sandbox", "live")], ids=["live-breaks", "sandbox-breaks"])
def modes(request: pytest.FixtureRequest) -> tuple[Mode, Mode]:
    broken, other = request.param
    return broken, other


def test_an_outage_in_one_mode_leaves_the_other_as_it_is(modes: tuple[Mode, Mode]) -> None:
    broken, other = modes
    both = Both()
    for mode in MODES:
        both.calls("acme", "success", 20, mode=mode).calls("beta", "success", 20, mode=mode)
    both.passes()
    before = len([one for one in both.published if one.key.mode == other])
    both.calls("acme", "server_error", 6, mode=broken).passes()
    assert (both.state("acme", broken), both.state("acme", other)) == (RouteState.DOWN, RouteState.HEALTHY)
    shares = {mode: both.monitor.seen[RouteKey("beta", "sms", mode)].shares for mode in modes}
    assert shares == {broken: {"acme": 0, "beta": 100}, other: {"acme": 100, "beta": 0}}
    assert len([one for one in both.published if one.key.mode == other]) == before, "the other mode is told nothing"


def test_a_route_that_only_the_sandbox_uses_goes_down_and_returns_in_stages() -> None:
    both = Both().calls("acme", "success", 5, mode="sandbox").passes()
    both.calls("acme", "server_error", 2, mode="sandbox").passes()
    both.calls("acme", "server_error", 3, probe=True, mode="sandbox").passes()
    assert both.state("acme", "sandbox") is RouteState.DOWN
    both.passes(6)
    for _ in range(3):
        both.passes(0.4).calls("acme", "success", probe=True, mode="sandbox")
    for _ in range(400):
        both.passes(0.1).calls("acme", "success", mode="sandbox")
    steps = [one.record.share for one in both.published if one.record.state is RouteState.RECOVERING]
    assert list(dict.fromkeys(steps)) == [5, 25, 100]
    assert both.state("acme", "sandbox") is RouteState.HEALTHY
    assert RouteKey("acme", "sms", "live") not in both.monitor.seen


def test_sandboxes_that_fail_together_are_no_fault_of_ours_and_hold_no_live_failover() -> None:
    both = Both()
    for mode in MODES:
        for name in NAMES:
            both.calls(name, "success", 20, mode=mode)
    for name in NAMES:
        both.calls(name, "timeout", 6, mode="sandbox")
    both.passes()
    assert both.monitor.frozen is None
    shut = [name for name in NAMES if both.state(name, "sandbox") is RouteState.DOWN]
    assert shut == ["acme", "beta"], "the guard holds for the sandbox as well"
    assert [(one.kind, one.mode) for one in both.monitor.alarms] == [("panic_guard", "sandbox")]
    for name in NAMES[:2]:
        both.passes(6).calls(name, "timeout", 6, mode="live")
    assert [both.state(name, "live") for name in NAMES[:2]] == [RouteState.DOWN] * 2
    both.passes()
    assert {one.mode for one in both.monitor.alarms} == {"sandbox"}


def test_our_own_fault_is_judged_by_live_calls_and_freezes_both() -> None:
    both = Both()
    for mode in MODES:
        for name in NAMES:
            both.calls(name, "success", 20, mode=mode)
    for name in NAMES:
        both.calls(name, "timeout", 2, mode="live")
    assert both.monitor.frozen is not None
    both.calls("acme", "timeout", 10, mode="sandbox").passes()
    assert both.state("acme", "sandbox") is RouteState.HEALTHY


def test_one_order_serves_both_modes_and_an_override_one() -> None:
    both = Both()
    for mode in MODES:
        both.calls("acme", "success", 20, mode=mode).calls("beta", "success", 20, mode=mode)
    wanted = Override(RouteState.FORCED_DOWN, START + timedelta(minutes=1), "drill", "kim")
    plans = {"sms": Plan(("beta", "acme"))}
    both.monitor.configure(Configuration(plans=plans, overrides={RouteKey("beta", "sms", "sandbox"): wanted}))
    both.passes()
    assert (both.state("beta", "live"), both.state("beta", "sandbox")) == (RouteState.HEALTHY, RouteState.FORCED_DOWN)
    told = {mode: both.monitor.seen[RouteKey("acme", "sms", mode)] for mode in MODES}
    assert {one.order for one in told.values()} == {("beta", "acme")}
    assert (told["live"].shares, told["sandbox"].shares) == ({"beta": 100, "acme": 0}, {"beta": 0, "acme": 100})


def test_a_quota_that_is_used_up_in_the_sandbox_keeps_no_live_work_away() -> None:
    both = Both()
    both.quota = {"live"}
    for mode in MODES:
        both.calls("acme", "success", 20, mode=mode).calls("beta", "success", 20, mode=mode)
        both.calls("acme", "server_error", 6, mode=mode)
    shares = [both.monitor.seen[RouteKey("acme", "sms", mode)].shares for mode in MODES]
    assert shares == [{"acme": 0, "beta": 100}, {"acme": 100, "beta": 0}]


def test_the_partition_of_a_modes_calls_owns_its_routes() -> None:
    monitor = Monitor(ManualClock(START))
    for key in (RouteKey(name, "sms", mode) for name in NAMES for mode in MODES):
        assert calls_key(*key) == f"{key.provider}:sms{'' if key.mode == 'live' else ':sandbox'}"
        owners = []
        for partition in range(SYNC_CALLS.partitions):
            monitor.own([partition], 1)
            owners.append(monitor.owns(key))
        assert owners.count(True) == 1
