"""Applies the rules and their escapes; PB000 is the rule about escapes and files themselves.

PB000: every escape has a reason and hides something; every Python file can be parsed. An escape without effect would
silently allow the next violation on its line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from tools.linters import (
    budgets,
    clock,
    commits,
    honest_tests,
    metric_names,
    names,
    provider_names,
    registries,
    service_anatomy,
    swallowed,
    topic_names,
)
from tools.linters.source import MIN_REASON_CHARS, Finding, Project, Source

ID = "PB000"
Rule = Callable[[Project], Iterator[Finding]]
RULES: Final[dict[str, Rule]] = {
    rule.ID: rule.check
    for rule in (
        provider_names,
        commits,
        clock,
        topic_names,
        metric_names,
        swallowed,
        budgets,
        service_anatomy,
        names,
        registries,
        honest_tests,
    )
}


def findings(project: Project) -> list[Finding]:
    """Return what the rules find and no escape excuses, in order of path and line."""
    readable, out = _readable(project)
    by_path: defaultdict[str, list[Finding]] = defaultdict(list)
    for rule in RULES.values():
        for finding in rule(readable):
            by_path[finding.path].append(finding)
    for source in readable.sources:
        out.extend(_apply_escapes(source, by_path[source.path]))
    return sorted(set(out))


def _readable(project: Project) -> tuple[Project, list[Finding]]:
    good: list[Source] = []
    bad: list[Finding] = []
    for source in project.sources:
        try:
            if source.is_python:
                _ = source.tree
            good.append(source)
        except (SyntaxError, ValueError) as error:
            bad.append(Finding(source.path, getattr(error, "lineno", None) or 1, ID, f"cannot be parsed: {error}"))
    return replace(project, sources=tuple(good)), bad


def _apply_escapes(source: Source, found: list[Finding]) -> Iterator[Finding]:
    excused: set[Finding] = set()
    for escape in source.escapes:
        if len(escape.reason) < MIN_REASON_CHARS:
            yield Finding(source.path, escape.line, ID, f"lint-skip {escape.rule} gives no reason")
            continue
        hidden = {f for f in found if f.rule == escape.rule and f.line in escape.covers}
        if not hidden:
            yield Finding(source.path, escape.line, ID, f"lint-skip {escape.rule} hides nothing; remove it")
        excused |= hidden
    yield from (finding for finding in found if finding not in excused)
