"""Metrics of the gateway."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

DELIVERIES = Metric(
    "gateway_deliveries_total",
    "counter",
    "Webhook requests by provider and outcome: accepted, a rejection reason, unavailable, sender_left or"
    " unknown_endpoint.",
    ("provider", "outcome"),
)
ACK_SECONDS = Metric(
    "gateway_ack_duration_seconds", "histogram", "From the request's first byte to its answer.", ("provider",)
)
UNRECORDED = Metric(
    "gateway_rejections_unrecorded_total", "counter", "Rejections that the broker did not take in time."
)
ENDPOINTS = Metric("gateway_endpoints", "gauge", "Webhook endpoints held in memory.")
KEY_MATCHES = Metric(
    "gateway_key_matches_total",
    "counter",
    "Verified deliveries by the position of the secret that matched; anything but 0 means a rotation is under way.",
    ("provider", "position"),
)
METRICS: Final[tuple[Metric, ...]] = (DELIVERIES, ACK_SECONDS, UNRECORDED, ENDPOINTS, KEY_MATCHES)
