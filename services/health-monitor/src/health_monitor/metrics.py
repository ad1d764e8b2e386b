"""Metrics of the health monitor."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

CALLS = Metric(
    "health_calls_observed_total", "counter", "Provider calls seen, by outcome.", ("provider", "capability", "outcome")
)
TRANSITIONS = Metric(
    "health_route_transitions_total", "counter", "Route decisions, by new state.", ("provider", "capability", "to")
)
SHARE = Metric(
    "health_route_share_ratio", "gauge", "Share of calls that may take the route, 0 to 1.", ("provider", "capability")
)
METRICS: Final[tuple[Metric, ...]] = (CALLS, TRANSITIONS, SHARE)
