"""What a decision says about itself where its state alone would mislead."""

from __future__ import annotations

from random import Random

import pytest

from contracts.events.health import RouteState
from contracts.events.sync import CallRun, Outcome
from health_monitor.states import SUSPECT_S, Machine, Move

UNPROBED = "nobody could probe: no connection asked the provider within 2 s, and calls alone prove nothing"


def calls(outcome: Outcome, count: int, *, probe: bool = False) -> CallRun:
    return CallRun(
        operation="op",
        outcome=outcome,
        count=count,
        tenant="t",
        credential="c",
        probe=probe,
        latency_ms_sum=1,
        latency_ms_max=1,
    )


@pytest.mark.parametrize(
    ("probes", "kind", "reason"),
    [
        ([], "unprobed", UNPROBED),
        # Whose credentials are refused has not asked the provider how it is.
        ([calls("client_error", 3, probe=True)], "unprobed", UNPROBED),
        ([calls("success", 1, probe=True)], "calm", "nothing confirmed the suspicion within 2 s"),
    ],
)
def test_a_suspicion_that_nobody_could_ask_about_says_so(probes: list[CallRun], kind: str, reason: str) -> None:
    machine = Machine(Random(1))
    machine.observe(calls("success", 200), "w", 1.0)
    machine.observe(calls("success", 1, probe=True), "w", 1.0)
    (suspected,) = machine.observe(calls("timeout", 2), "w", 5.0)
    assert suspected.after is RouteState.SUSPECT
    for probe in probes:
        assert machine.observe(probe, "w", 5.5) == []
    ended: list[Move] = machine.tick(5.0 + SUSPECT_S)
    assert [(one.after, one.kind, one.reason) for one in ended] == [(RouteState.HEALTHY, kind, reason)]
