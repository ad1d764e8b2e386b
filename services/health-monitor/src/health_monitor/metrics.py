"""Metrics of the health monitor."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

CALLS = Metric(
    "health_calls_observed_total",
    "counter",
    "Provider calls seen, by outcome.",
    ("provider", "capability", "mode", "outcome"),
)
TRANSITIONS = Metric(
    "health_route_transitions_total",
    "counter",
    "Route decisions, by new state.",
    ("provider", "capability", "mode", "to"),
)
SHARE = Metric(
    "health_route_share_ratio",
    "gauge",
    "Share of calls that may take the route, 0 to 1.",
    ("provider", "capability", "mode"),
)
STATE = Metric(
    "provider_state", "gauge", "1 for the state that the route is in.", ("provider", "capability", "mode", "state")
)
EPOCH = Metric("provider_route_epoch", "gauge", "Counter of the route's epoch.", ("provider", "capability", "mode"))
FAILOVERS = Metric(
    "provider_failovers_total",
    "counter",
    "Times that a route lost calls, by who took them (none: nobody could) and what decided.",
    ("from", "to", "reason", "mode"),
)
DETECTION_SECONDS = Metric(
    "provider_detection_duration_seconds", "histogram", "From a first failure to the decision.", ("provider", "mode")
)
SELF_FAULT = Metric("health_self_fault", "gauge", "1 while evidence points at ourselves and decisions are frozen.")
PANIC = Metric("health_panic_guard", "gauge", "1 while routes are not shut because too many were at once.", ("mode",))
TICK = Metric("health_detector_tick_timestamp_seconds", "gauge", "When time was last let pass for the routes.")
CONTROL_PROBE = Metric("health_control_probe_up", "gauge", "1 while the control probe reaches one of its targets.")
MIRROR_AWAY = Metric("health_mirror_away", "gauge", "1 while Redis does not take decisions or hand them on.", ("side",))
MIRROR_LOST = Metric("health_mirror_lost_total", "counter", "Records that a newer owner's epoch shut out.")
UNSAVED = Metric("health_unsaved_decisions", "gauge", "Decisions that are announced and not in the database yet.")
QUOTA_FORECAST = Metric(
    "health_quota_forecast_ratio",
    "gauge",
    "Greatest forecast of an owner's use at the end of a window, by kind of bucket; 1 is the limit.",
    ("provider", "bucket", "mode"),
)
SUNSET = Metric(
    "api_version_sunset_timestamp_seconds",
    "gauge",
    "When a version of an API that calls use goes away, by its Sunset header.",
    ("provider", "version"),
)
DEPRECATED = Metric(
    "api_versions_deprecated", "gauge", "Versions of an API that calls use and that are deprecated.", ("provider",)
)
METRICS: Final[tuple[Metric, ...]] = (
    CALLS,
    TRANSITIONS,
    SHARE,
    STATE,
    EPOCH,
    FAILOVERS,
    DETECTION_SECONDS,
    SELF_FAULT,
    PANIC,
    TICK,
    CONTROL_PROBE,
    MIRROR_AWAY,
    MIRROR_LOST,
    UNSAVED,
    QUOTA_FORECAST,
    SUNSET,
    DEPRECATED,
)
