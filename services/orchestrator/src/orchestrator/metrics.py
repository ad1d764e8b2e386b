"""Metrics of the orchestrator."""

from __future__ import annotations

from typing import Final

from chassis.telemetry.metrics import Metric

SAGAS_STARTED = Metric("orchestrator_sagas_started_total", "counter", "Sagas started.", ("definition",))
SAGAS_ENDED = Metric(
    "orchestrator_sagas_ended_total", "counter", "Sagas that reached a resting status.", ("definition", "status")
)
COMMANDS = Metric("orchestrator_commands_total", "counter", "Commands given, retries included.", ("definition", "step"))
ANSWERS_IGNORED = Metric("orchestrator_answers_ignored_total", "counter", "Answers that changed nothing.")
METRICS: Final[tuple[Metric, ...]] = (SAGAS_STARTED, SAGAS_ENDED, COMMANDS, ANSWERS_IGNORED)
