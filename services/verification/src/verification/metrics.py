"""Metrics of the verification service."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

DECISIONS = Metric(
    "verification_decisions_total", "counter", "Age checks by outcome and by what decided.", ("outcome", "method")
)
CHECK_SECONDS = Metric(
    "verification_check_duration_seconds", "histogram", "Time that the check's provider took.", ("method",)
)
BLOCKED = Metric("verification_attempts_blocked_total", "counter", "Requests over the limit of attempts.")
AUDIT_ENTRIES = Metric("verification_audit_entries_total", "counter", "Entries added to the audit log.")
METRICS: Final[tuple[Metric, ...]] = (DECISIONS, CHECK_SECONDS, BLOCKED, AUDIT_ENTRIES)
