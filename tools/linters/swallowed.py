"""PB006: no failure disappears.

A bare `except`, and an `except Exception` that neither raises, logs nor passes the exception on, turn a bug into lost
events that nobody can explain. A narrow exception that is expected may be dropped with `contextlib.suppress`; a broad
one may not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tools.linters.source import Finding, Project, Source

ID = "PB006"
_BROAD = frozenset({"Exception", "BaseException"})
_LOG_METHODS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})


def check(project: Project) -> Iterator[Finding]:
    """Yield the handlers, and the uses of `suppress`, that lose an exception."""
    for source in project.python(lambda _: True):
        for node in source.nodes:
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    yield Finding(source.path, node.lineno, ID, "bare except; name the exceptions")
                elif _is_broad(node.type) and not _handles(node):
                    yield Finding(source.path, node.lineno, ID, "a broad except that neither raises nor logs")
        yield from _suppressions(source)


def _suppressions(source: Source) -> Iterator[Finding]:
    for call, dotted in source.calls():
        if dotted == "contextlib.suppress" and any(_is_broad(argument) for argument in call.args):
            yield Finding(source.path, call.lineno, ID, "suppresses every exception; name the expected ones")


def _is_broad(node: ast.expr) -> bool:
    if isinstance(node, ast.Tuple):
        return any(_is_broad(element) for element in node.elts)
    return isinstance(node, ast.Name) and node.id in _BROAD


def _handles(handler: ast.ExceptHandler) -> bool:
    for statement in handler.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Raise):
                return True
            if isinstance(node, ast.Name) and node.id == handler.name:
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _LOG_METHODS:
                return True
    return False
