"""Metrics of the sync worker."""

from __future__ import annotations

from typing import Final

from chassis.effects.metrics import METRICS as EFFECT_METRICS
from chassis.telemetry.metrics import Metric
from sync_worker.catchup.metrics import METRICS as CATCH_UP_METRICS
from sync_worker.limiter.metrics import METRICS as LIMITER_METRICS

REQUESTS = Metric(
    "provider_requests_total", "counter", "Calls to providers by outcome.", ("provider", "operation", "outcome", "mode")
)
REQUEST_SECONDS = Metric(
    "provider_request_duration_seconds",
    "histogram",
    "Duration of calls to providers.",
    ("provider", "operation", "mode"),
)
IN_FLIGHT = Metric("provider_requests_in_flight", "gauge", "Calls to providers that have no answer yet.", ("provider",))
PAYMENTS = Metric(
    "sync_payment_snapshots_total", "counter", "Payment snapshots by what became of them.", ("provider", "outcome")
)
CALLS_UNREPORTED = Metric("sync_calls_unreported_total", "counter", "Call reports that the broker did not take.")
KEYS_EXPIRING_IN_USE = Metric(
    "sync_endpoint_keys_expiring_in_use",
    "gauge",
    "Webhook keys that end soon, were used in the last hour and have a newer key beside them.",
)
CREDENTIAL_REFRESHES = Metric(
    "credential_refreshes_total", "counter", "Attempts to get a token by how they ended.", ("provider", "outcome")
)
CREDENTIAL_EXPIRY = Metric(
    "credential_expiry_timestamp_seconds",
    "gauge",
    "When the first token of a provider's connections ends.",
    ("provider",),
)
CREDENTIALS_ON_OLD_KEYS = Metric(
    "credential_old_key_rows", "gauge", "Credentials that an older key wraps than the current one."
)
METRICS: Final[tuple[Metric, ...]] = (
    *(REQUESTS, REQUEST_SECONDS, IN_FLIGHT, PAYMENTS, CALLS_UNREPORTED),
    KEYS_EXPIRING_IN_USE,
    *(CREDENTIAL_REFRESHES, CREDENTIAL_EXPIRY, CREDENTIALS_ON_OLD_KEYS),
    *EFFECT_METRICS,
    *CATCH_UP_METRICS,
    *LIMITER_METRICS,
)
