"""Metrics of the participant kit; a service that uses it adds `METRICS` to its own."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

ANSWERS = Metric("effects_answers_total", "counter", "Answers to commands by status.", ("operation", "status"))
REUSED = Metric(
    "effects_keys_reused_total", "counter", "Commands refused because their effect key was used for another request."
)
OPEN = Metric("effects_open", "gauge", "Effects that are not settled, by state.", ("state", "lane"))
METRICS: Final[tuple[Metric, ...]] = (ANSWERS, REUSED, OPEN)
