"""PB005: metrics are declared in files named metrics.py only.

The reference page and the dashboards are built from these declarations; a metric created elsewhere is undocumented and
easily misspelt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB005"
_KINDS = frozenset({"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum", "Metric"})


def check(project: Project) -> Iterator[Finding]:
    """Yield every metric created with a literal name in product code outside of a metrics.py."""
    for source in project.python(lambda s: s.is_source and s.pure.name != "metrics.py"):
        for call, dotted in source.calls():
            module, _, kind = dotted.rpartition(".")
            if kind in _KINDS and module.startswith(("prometheus_client", "chassis.telemetry")) and _named(call):
                yield Finding(source.path, call.lineno, ID, f"{kind} is declared outside of metrics.py")


def _named(call: ast.Call) -> bool:
    values = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
    return any(isinstance(value, ast.Constant | ast.JoinedStr) for value in values)
