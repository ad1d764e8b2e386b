"""PB002: no `.commit()` outside chassis/db.

One unit of work is one transaction: effect, inbox mark and outgoing messages commit together, at the edge. A commit
anywhere else can leave one without the others. The consumer's offset commit in chassis/kafka is not a database commit
and carries an escape.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB002"
_ALLOWED = "libs/chassis/src/chassis/db/"


def check(project: Project) -> Iterator[Finding]:
    """Yield every call of a method named `commit` in the sources of libraries and services."""
    for source in project.python(lambda s: s.is_source and s.path.startswith(("libs/", "services/"))):
        if source.path.startswith(_ALLOWED):
            continue
        for call, _ in source.calls():
            if isinstance(call.func, ast.Attribute) and call.func.attr == "commit":
                yield Finding(source.path, call.lineno, ID, "commits outside of chassis.db; let the unit of work do it")
