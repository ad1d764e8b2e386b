"""Calls as workers report them."""

from __future__ import annotations

from typing import Any

from contracts.events.sync import CallRun, Outcome


def one_call(outcome: Outcome, tenant: str, *, latency_ms: float = 1, **fields: Any) -> CallRun:
    """Return one call of a tenant's only credential; `fields` are those of a run."""
    given = {"operation": "op", "credential": "c", "count": 1} | fields
    return CallRun(outcome=outcome, tenant=tenant, latency_ms_sum=latency_ms, latency_ms_max=latency_ms, **given)
