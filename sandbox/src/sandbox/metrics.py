"""Metrics of the sandbox."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

API_REQUESTS = Metric(
    "sandbox_api_requests_total", "counter", "Requests to simulated APIs, by fault.", ("provider", "fault")
)
EFFECTS = Metric("sandbox_effects_total", "counter", "Effects that simulated APIs applied.", ("provider", "operation"))
ATTEMPTS = Metric(
    "sandbox_delivery_attempts_total",
    "counter",
    "Webhook requests that were sent, by outcome.",
    ("provider", "outcome"),
)

METRICS: Final[tuple[Metric, ...]] = (API_REQUESTS, EFFECTS, ATTEMPTS)
