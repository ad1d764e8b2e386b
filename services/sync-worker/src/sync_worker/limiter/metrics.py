"""Metrics of the limiter (health-monitor.md §2.8)."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

WAIT_SECONDS = Metric(
    "ratelimit_wait_seconds", "histogram", "Waits for quota of the calls that had to wait, by class.", ("class",)
)
DECISIONS = Metric(
    "ratelimit_decisions_total",
    "counter",
    "Calls by what the limiter said: leased, waited, safe, refused; emergency ones also count as emergency.",
    ("class", "decision"),
)
STORE_COMMANDS = Metric("ratelimit_store_commands_total", "counter", "Scripts that the limiter ran in Redis.")
STORE_TRIPS = Metric("ratelimit_store_trips_total", "counter", "Round trips of the limiter to Redis.", ("outcome",))
QUOTA_USED = Metric(
    "provider_quota_used_ratio",
    "gauge",
    "Part of a provider's quota that is used, in the fullest bucket that this worker knows.",
    ("provider", "quota", "mode"),
)
METRICS: Final[tuple[Metric, ...]] = (WAIT_SECONDS, DECISIONS, STORE_COMMANDS, STORE_TRIPS, QUOTA_USED)
