"""Calls as workers report them."""

from __future__ import annotations

from contracts.events.sync import CallRun, Outcome

CAPABILITY = "messaging.sms"
FLUSH_S = 0.02


def run_of(outcome: Outcome, number: int, *, probe: bool = False, kind: str = "final") -> CallRun:
    return CallRun.model_validate(
        {
            "operation": "op",
            "outcome": outcome,
            "count": 1,
            "tenant": f"t{number % 3}",
            "credential": "c",
            "probe": probe,
            "kind": kind,
            "latency_ms_sum": 1,
            "latency_ms_max": 1,
        }
    )
