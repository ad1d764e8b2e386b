"""PB011: a test runs, or says why not; and it never sleeps for luck.

A skip without a reason hides a broken feature for ever. A sleep is either too short on a slow machine or too long on
every other: poll with a deadline, or move a virtual clock.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.linters.source import Finding, Project, Source

ID = "PB011"
MIN_REASON_CHARS = 15
_MARKS = frozenset({"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail", "pytest.importorskip"})
# Their first positional argument is the reason.
_REASON_FIRST = frozenset({"pytest.skip", "pytest.xfail", "pytest.mark.skip", "unittest.skip"})
_SLEEPS = frozenset({"time.sleep", "asyncio.sleep", "anyio.sleep"})


def check(project: Project) -> Iterator[Finding]:
    """Yield skips and expected failures without a reason, and sleeps, in tests."""
    for source in project.python(lambda s: s.is_test):
        called = {id(call.func) for call, _ in source.calls()}
        for call, dotted in source.calls():
            if dotted in _MARKS | _REASON_FIRST and not _has_reason(call, dotted):
                yield Finding(source.path, call.lineno, ID, f"{dotted} needs a reason of {MIN_REASON_CHARS} characters")
            elif dotted in _SLEEPS and not _is_zero(call):
                yield Finding(source.path, call.lineno, ID, f"{dotted} in a test; poll with a deadline")
        yield from _bare_marks(source, called)


def _bare_marks(source: Source, called: set[int]) -> Iterator[Finding]:
    for node in source.nodes:
        if isinstance(node, ast.Attribute) and id(node) not in called and source.dotted(node) in _MARKS:
            yield Finding(source.path, node.lineno, ID, f"{source.dotted(node)} needs a reason")


def _has_reason(call: ast.Call, dotted: str) -> bool:
    reasons = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    if dotted in _REASON_FIRST:
        reasons.extend(call.args[:1])
    return any(_long_enough(reason) for reason in reasons)


def _long_enough(reason: ast.expr) -> bool:
    """Tell whether a reason says something; one that is computed gets the benefit of the doubt."""
    return not isinstance(reason, ast.Constant) or len(str(reason.value).strip()) >= MIN_REASON_CHARS


def _is_zero(call: ast.Call) -> bool:
    """`sleep(0)` only lets other tasks run."""
    return len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
