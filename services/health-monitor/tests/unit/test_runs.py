"""Errors that come in runs beside probes that succeed: neither a failover for a hiccup, nor blindness (decision 26)."""

from __future__ import annotations

from random import Random

import pytest

from contracts.events.health import RouteState
from contracts.events.sync import Outcome
from health_monitor.states import Machine
from health_monitor_support.calls import one_call

GONE = {RouteState.DOWN, RouteState.DEGRADED}


class Fleet:
    """Ten calls a second of three tenants through two workers; a suspected route's probes succeed."""

    def __init__(self) -> None:
        self.machine = Machine(Random(3))
        self.now = 1000.0
        self.calls = 0
        self.states: list[RouteState] = []
        for _ in range(50):
            self.call("success")

    def call(self, outcome: Outcome) -> None:
        self.now += 0.1
        self.calls += 1
        self.machine.tick(self.now)
        self._observe(outcome, probe=False)
        if self.machine.probe(self.now) == "burst":
            self._observe("success", probe=True)

    def _observe(self, outcome: Outcome, *, probe: bool) -> None:
        run = one_call(outcome, f"t{self.calls % 3}", probe=probe)
        self.states += [move.after for move in self.machine.observe(run, f"w{self.calls % 2}", self.now)]


@pytest.mark.parametrize("ratio", [0.5, 0.8])
def test_half_of_all_calls_failing_halves_a_route_within_seconds_whatever_its_probes_say(ratio: float) -> None:
    """Good probes say nothing about some errors: each cleared suspicion used to start that evidence at half again."""
    for seed in range(20):
        dice, fleet = Random(seed), Fleet()
        began = fleet.now
        while not GONE & set(fleet.states):
            fleet.call("server_error" if dice.random() < ratio else "success")
            assert fleet.now - began < 6


def test_a_hiccup_of_all_callers_does_not_shut_a_route_whose_probes_are_good() -> None:
    fleet = Fleet()
    for _ in range(12):
        fleet.call("server_error")
    assert RouteState.SUSPECT in fleet.states
    assert not GONE & set(fleet.states)


def test_an_outage_of_everything_but_the_probes_shuts_a_route_within_seconds() -> None:
    fleet = Fleet()
    began = fleet.now
    while RouteState.DOWN not in fleet.states:
        fleet.call("server_error")
        assert fleet.now - began < 6
