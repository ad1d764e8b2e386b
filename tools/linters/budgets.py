"""PB007: everything fits a screen and a head.

Module at most 400 lines, function 60 (docstring included), 7 parameters (`self` and `cls` aside), class 15 public
methods, provider folder 500 lines of Python (tests aside); an `__init__.py` holds docstring, imports and `__all__`, so
that a name is found where it is defined. Alembic revisions are exempt: each is a frozen record.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tools.linters.source import Finding, Project, Source

ID = "PB007"
MODULE_LINES = 400
FUNCTION_LINES = 60
PARAMETERS = 7
PUBLIC_METHODS = 15
PROVIDER_LINES = 500
_PROVIDERS = "libs/providers/src/providers/"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def check(project: Project) -> Iterator[Finding]:
    """Yield everything over budget."""
    for source in project.python(lambda s: "/migrations/versions/" not in s.path):
        lines = len(source.text.splitlines())
        if lines > MODULE_LINES:
            yield Finding(source.path, 1, ID, f"module has {lines} lines, at most {MODULE_LINES}")
        for node in source.nodes:
            if isinstance(node, Function):
                yield from _function(source, node)
            elif isinstance(node, ast.ClassDef):
                yield from _class(source, node)
        if source.pure.name == "__init__.py":
            yield from _init(source)
    yield from _providers(project)


def _function(source: Source, node: Function) -> Iterator[Finding]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > FUNCTION_LINES:
        yield Finding(source.path, node.lineno, ID, f"{node.name} has {lines} lines, at most {FUNCTION_LINES}")
    positional = [*node.args.posonlyargs, *node.args.args]
    own = positional[1:] if positional and positional[0].arg in {"self", "cls"} else positional
    count = len(own) + len(node.args.kwonlyargs)
    if count > PARAMETERS:
        yield Finding(source.path, node.lineno, ID, f"{node.name} has {count} parameters, at most {PARAMETERS}")


def _class(source: Source, node: ast.ClassDef) -> Iterator[Finding]:
    public = {item.name for item in node.body if isinstance(item, Function) and not item.name.startswith("_")}
    # A test class is a heading over independent tests, not an interface that somebody must learn.
    if len(public) > PUBLIC_METHODS and not source.is_test:
        yield Finding(
            source.path, node.lineno, ID, f"{node.name} has {len(public)} public methods, at most {PUBLIC_METHODS}"
        )


def _init(source: Source) -> Iterator[Finding]:
    for node in source.tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (is_docstring or isinstance(node, ast.Import | ast.ImportFrom) or _is_all(node)):
            yield Finding(source.path, node.lineno, ID, "an __init__.py holds a docstring, imports and __all__ only")


def _is_all(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)] == ["__all__"]


def _providers(project: Project) -> Iterator[Finding]:
    sizes: defaultdict[str, int] = defaultdict(int)
    for source in project.under(_PROVIDERS):
        folder = source.pure.relative_to(_PROVIDERS).parts[0]
        manifest = f"{_PROVIDERS}{folder}/manifest.toml"
        if source.is_python and not source.is_test and manifest in project.paths:
            sizes[manifest] += len(source.text.splitlines())
    for manifest, lines in sorted(sizes.items()):
        if lines > PROVIDER_LINES:
            yield Finding(manifest, 1, ID, f"provider has {lines} lines of Python, at most {PROVIDER_LINES}")
