"""Decisions in words: why a route was judged as it was, for people who did not read the design. Pure."""

from __future__ import annotations

from typing import Any

from health_monitor.charts import Chart


def tripped(name: str, chart: Chart) -> str:
    """Return the cause when a chart passed its threshold."""
    return f"S_{name} {chart.score:.1f} > h {chart.h:.1f}"


def suspicious(name: str, chart: Chart) -> str:
    """Return the cause when a chart passed half of its threshold."""
    return f"S_{name} {chart.score:.1f} > h/2 {chart.h / 2:.1f}"


def unconfirmed(seconds: float, *, probed: bool) -> str:
    """Return why a suspicion ends: nothing confirmed it, which says little where nobody could ask the provider."""
    if probed:
        return f"nothing confirmed the suspicion within {seconds:.0f} s"
    return f"nobody could probe: no connection asked the provider within {seconds:.0f} s, and calls alone prove nothing"


def explained(cause: str, evidence: dict[str, Any]) -> str:
    """Return a cause with the evidence around it: `5 of the last 6 calls failed (5 timeout), S_outage …, seen by …`."""
    parts = [cause]
    if evidence["failed"]:
        kinds = ", ".join(f"{count} {outcome}" for outcome, count in evidence["outcomes"].items())
        parts.insert(0, f"{evidence['failed']} of the last {evidence['calls']} calls failed ({kinds})")
        if evidence["workers"]:
            parts.append(f"seen by {_count(evidence['workers'], 'worker')} and {_count(evidence['tenants'], 'tenant')}")
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
