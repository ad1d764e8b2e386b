"""Traces from the services' span files: read, put into a tree, printed with who did what and for how long."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.tree import Tree

_NS_PER_MS: Final = 1_000_000


@dataclass(slots=True)
class Span:
    """One span with its children in order of their start."""

    span_id: str
    parent_id: str | None
    service: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    children: list[Span] = field(default_factory=list)

    @property
    def duration_ms(self) -> float:
        """How long the span took, in milliseconds."""
        return (self.end_ns - self.start_ns) / _NS_PER_MS


def read_spans(folder: Path, trace_id: str) -> list[Span]:
    """Return the spans of one trace from all files of a folder, by start; unfinished last lines are skipped."""
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            # A trace id is 32 hex digits, so a line without it cannot be of the trace; parsing all would take minutes.
            found += [span for line in lines if trace_id in line and (span := _span(line, trace_id)) is not None]
    return sorted(found, key=lambda span: span.start_ns)


def roots(spans: Iterable[Span]) -> list[Span]:
    """Link spans to their parents and return those without a known one."""
    by_id = {span.span_id: span for span in spans}
    children: defaultdict[str | None, list[Span]] = defaultdict(list)
    for span in by_id.values():
        children[span.parent_id if span.parent_id in by_id else None].append(span)
    for span in by_id.values():
        span.children = children[span.span_id]
    return children[None]


def tree(trace_id: str, spans: list[Span]) -> Tree:
    """Return the trace as a tree for printing: service, span, duration, and when it began."""
    shown = Tree(f"trace {trace_id}")
    begin = min((span.start_ns for span in spans), default=0)
    for root in roots(spans):
        _add(shown, root, begin)
    return shown


def services_of(spans: Iterable[Span]) -> list[str]:
    """Return the services that took part, in order of their first span."""
    return list(dict.fromkeys(span.service for span in spans))


def _add(parent: Tree, span: Span, begin: int) -> None:
    offset_ms = (span.start_ns - begin) / _NS_PER_MS
    label = f"{span.service}: {span.name}  {span.duration_ms:.1f} ms  (at +{offset_ms:.1f} ms)"
    node = parent.add(escape(label))
    for child in span.children:
        _add(node, child, begin)


def _span(line: str, trace_id: str) -> Span | None:
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if raw.get("trace_id") != trace_id:
        return None
    names = ("span_id", "parent_id", "service", "name", "start_ns", "end_ns", "attributes")
    return Span(**{name: raw[name] for name in names})
