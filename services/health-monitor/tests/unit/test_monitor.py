"""Owners of routes: epochs, fences, shares across routes, SELF_FAULT, the panic guard, operators' wishes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from contracts.events.health import RouteState
from health_monitor.failover import Plan
from health_monitor.monitor import Configuration, Monitor, Override
from health_monitor.statistics import RouteKey
from health_monitor_support.fleet import ALL, START, Fleet

LONG_AGO = datetime.min.replace(tzinfo=UTC)


def test_epochs_of_a_route_grow_by_one_with_every_record() -> None:
    fleet = Fleet(generation=4).calls("acme", "success", 20).passes().calls("acme", "timeout", 5).passes()
    epochs = [one.record.epoch for one in fleet.published]
    assert epochs == [(4, count) for count in range(1, len(epochs) + 1)]
    assert fleet.record("acme").state is RouteState.DOWN


def test_an_outage_moves_the_shares_of_all_routes_of_the_capability() -> None:
    fleet = Fleet().calls("acme", "success", 20).calls("other", "success", 20).passes()
    assert fleet.record("other").shares == {"acme": 100, "other": 0}
    fleet.calls("acme", "server_error", 5)
    for provider in ("acme", "other"):
        assert (fleet.record(provider).order, fleet.record(provider).shares) == (
            ("acme", "other"),
            {"acme": 0, "other": 100},
        )
    assert (fleet.record("acme").share, fleet.record("other").share) == (0, 100)


def test_a_backup_without_quota_is_not_taken() -> None:
    fleet = Fleet(has_quota=lambda provider, _mode: provider != "other")
    fleet.calls("acme", "success", 20).calls("other", "success", 20).calls("acme", "server_error", 5).passes()
    assert fleet.record("acme").shares == {"acme": 100, "other": 0}


def test_a_new_owner_goes_on_from_the_newest_record_under_its_generation() -> None:
    first = Fleet(generation=1).calls("acme", "success", 20).calls("acme", "timeout", 5)
    second = Monitor(first.clock, dice=Random(1))
    second.learned(first.record("acme"))
    published = second.own(ALL, 2)
    assert [(one.record.epoch, one.record.state) for one in published] == [
        ((2, first.record("acme").epoch[1] + 1), RouteState.DOWN)
    ]


def test_a_fenced_owner_decides_nothing_more() -> None:
    fleet = Fleet(generation=1).calls("acme", "success", 20)
    newer = fleet.record("acme").model_copy(update={"epoch": (2, 2)})
    fleet.monitor.learned(newer)
    before = len(fleet.published)
    fleet.calls("acme", "timeout", 50).passes().passes(5)
    assert len(fleet.published) == before
    assert fleet.record("acme") == newer


def test_a_smaller_epoch_never_replaces_a_known_one() -> None:
    fleet = Fleet(generation=3).calls("acme", "success")
    known = fleet.record("acme")
    fleet.monitor.learned(known.model_copy(update={"epoch": (2, 99), "state": RouteState.DOWN}))
    assert fleet.record("acme") == known


def test_routes_of_other_partitions_are_left_alone_and_lost_ones_forgotten() -> None:
    fleet = Fleet()
    fleet.calls("acme", "success", 20)
    fleet.monitor.own([], 1)
    before = len(fleet.published)
    fleet.calls("acme", "timeout", 20).passes()
    assert len(fleet.published) == before
    assert fleet.monitor.machines == {}


def test_self_fault_freezes_all_routes_and_lets_go_when_it_has_passed() -> None:
    fleet = Fleet()
    names = ("acme", "beta", "gamma", "delta")
    for name in names:
        fleet.calls(name, "success", 20)
    for name in names:
        fleet.passes().calls(name, "timeout", 2)
    for name in names:
        fleet.calls(name, "timeout", 10)
    assert bool(fleet.monitor.frozen)
    assert sum(fleet.record(name).state is RouteState.DOWN for name in names) == 0
    assert [(one.kind, one.began) for one in fleet.monitor.alarms] == [("self_fault", True)]
    for _ in range(120):
        fleet.passes()
    assert not fleet.monitor.frozen
    fleet.calls("acme", "timeout", 5)
    assert fleet.record("acme").state is RouteState.DOWN


def test_the_control_probe_freezes_and_an_operator_clears() -> None:
    fleet = Fleet().calls("acme", "success", 20)
    fleet.monitor.configure(Configuration(cleared_at=LONG_AGO))
    fleet.monitor.control_probe(failed=True)
    fleet.passes().calls("acme", "timeout", 20)
    assert fleet.record("acme").state is not RouteState.DOWN
    fleet.monitor.configure(Configuration(cleared_at=START))
    fleet.calls("acme", "timeout", 5)
    assert fleet.record("acme").state is RouteState.DOWN


def test_the_panic_guard_holds_the_next_provider_back_for_a_minute() -> None:
    fleet = Fleet()
    names = ("acme", "beta", "gamma", "delta")
    for name in names:
        fleet.calls(name, "success", 20)
    for name in names[:3]:
        # Far enough apart to be no fault of ours.
        fleet.passes(6).calls(name, "timeout", 6)
    states = [fleet.record(name).state for name in names[:3]]
    assert states[:2] == [RouteState.DOWN] * 2
    assert states[2] is RouteState.SUSPECT
    fleet.passes()
    assert [(one.kind, one.began) for one in fleet.monitor.alarms] == [("panic_guard", True)]
    fleet.passes(49)
    assert fleet.record("gamma").state is RouteState.DOWN


def test_an_operators_state_is_taken_up_and_ends_with_its_time() -> None:
    fleet = Fleet().calls("acme", "success", 20).calls("other", "success", 20)
    wanted = Override(RouteState.FORCED_DOWN, START + timedelta(seconds=30), "vendor works on it", "kim")
    fleet.monitor.configure(Configuration(overrides={RouteKey("acme", "sms"): wanted}))
    fleet.passes()
    shown = fleet.record("acme")
    assert (shown.state, shown.shares, shown.reason) == (
        RouteState.FORCED_DOWN,
        {"acme": 0, "other": 100},
        "operator kim: vendor works on it",
    )
    assert next(one.actor for one in fleet.published if one.record.state is RouteState.FORCED_DOWN) == "kim"
    fleet.passes(31)
    assert (fleet.record("acme").state, fleet.record("acme").share) == (RouteState.RECOVERING, 5)


def test_a_planned_order_is_published_without_any_call() -> None:
    fleet = Fleet().calls("acme", "success", 20).calls("other", "success", 20).passes()
    plan = Plan(("other", "acme"), {"other": 80, "acme": 20})
    fleet.monitor.configure(Configuration(plans={"sms": plan}))
    fleet.passes()
    assert fleet.record("acme").order == ("other", "acme")
    assert fleet.record("acme").shares == {"other": 80, "acme": 20}


def test_time_alone_publishes_nothing_when_nothing_changes() -> None:
    fleet = Fleet().calls("acme", "success", 20).passes()
    before = len(fleet.published)
    for _ in range(200):
        fleet.passes()
    assert len(fleet.published) == before
