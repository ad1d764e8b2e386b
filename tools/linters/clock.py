"""PB003: nobody but chassis/clock.py reads the wall clock or blocks a thread to wait.

Code that asks the machine for the time cannot be tested with a virtual clock, and `time.sleep` stops the event loop.
Durations (`time.monotonic`, `time.perf_counter`) are free.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.linters.source import Finding, Project, Source

ID = "PB003"
_ALLOWED = "libs/chassis/src/chassis/clock.py"
_BANNED = frozenset(
    {
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
        "time.time",
        "time.time_ns",
        "time.sleep",
    }
)


def check(project: Project) -> Iterator[Finding]:
    """Yield every mention of a banned function, called or passed on, in the sources of libraries and services."""
    for source in project.python(lambda s: s.is_source and s.path.startswith(("libs/", "services/"))):
        if source.path != _ALLOWED:
            yield from _mentions(source)


def _mentions(source: Source) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            dotted = source.dotted(node)
            if dotted in _BANNED:
                yield Finding(source.path, node.lineno, ID, f"{dotted} outside of chassis.clock; take a Clock")
