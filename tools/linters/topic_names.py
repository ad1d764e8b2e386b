"""PB004: no topic name is spelt out outside of contracts/topics.py.

A misspelt topic is created or waited for in silence; a constant of `contracts.topics` cannot be misspelt, and its
writer, readers and retention are declared beside it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB004"
_ALLOWED = "libs/contracts/src/contracts/topics.py"
_TOPIC = re.compile(r"(gateway|sync|health|orchestrator|verification|platform)\.[a-z-]+\.v\d+")


def check(project: Project) -> Iterator[Finding]:
    """Yield every string, f-strings included, that starts with a topic's name in product code."""
    for source in project.python(lambda s: s.is_source):
        if source.path == _ALLOWED:
            continue
        for node in source.nodes:
            if isinstance(node, ast.Constant | ast.JoinedStr):
                found = _TOPIC.match(_text(node))
                if found:
                    yield Finding(source.path, node.lineno, ID, f"topic name {found[0]!r}; use contracts.topics")


def _text(node: ast.Constant | ast.JoinedStr) -> str:
    """Return a string's text, with a letter in place of what an f-string fills in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return node.value if isinstance(node.value, str) else ""
