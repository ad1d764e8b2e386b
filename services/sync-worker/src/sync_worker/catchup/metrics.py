"""Metrics of catch-up and of subscriptions."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

RUNS = Metric("sync_catchup_runs_total", "counter", "Runs over a feed by how they ended.", ("provider", "outcome"))
EVENTS = Metric(
    "sync_catchup_events_total",
    "counter",
    "Events that a feed listed: they had arrived, or they were missed and are delivered now.",
    ("provider", "outcome"),
)
CALLS = Metric("sync_catchup_calls_total", "counter", "Calls that were spent on feeds.", ("provider",))
BEHIND = Metric(
    "sync_catchup_behind_seconds",
    "gauge",
    "Seconds since the instant up to which every event of every connection is here.",
    ("provider",),
)
SUBSCRIPTION_CALLS = Metric(
    "sync_subscription_calls_total",
    "counter",
    "Registrations, renewals, ends and inventories of subscriptions by how they ended.",
    ("provider", "act", "outcome"),
)
SUBSCRIPTIONS = Metric("sync_subscriptions", "gauge", "Subscriptions at providers by state.", ("provider", "state"))
DRIFTS = Metric(
    "sync_subscription_drifts_total",
    "counter",
    "Differences between a provider's list of subscriptions and ours: missing there, unknown here, another expiry.",
    ("provider", "kind"),
)
METRICS: Final[tuple[Metric, ...]] = (RUNS, EVENTS, CALLS, BEHIND, SUBSCRIPTION_CALLS, SUBSCRIPTIONS, DRIFTS)
