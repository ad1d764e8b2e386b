"""What every rule works on: the repository's files, parsed once, and the escapes in them.

An escape is `lint-skip: <ID> <reason>` in a comment on the finding's line or on a line of its own above it; the reason
is required. Must never know a particular rule.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

_ESCAPE = re.compile(r"(?:#|<!--|//)\s*lint-skip:\s*(?P<id>PB\d{3})(?P<reason>[^\n]*?)(?:-->)?\s*$")
# A reason shorter than this explains nothing.
MIN_REASON_CHARS = 10


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One broken rule at one place; the path is relative to the repository's root."""

    path: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule} {self.message}"


@dataclass(frozen=True, slots=True)
class Escape:
    """One `lint-skip` comment, and the lines it covers."""

    line: int
    rule: str
    reason: str
    covers: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """One text file, read and parsed when first asked for."""

    path: str
    text: str

    @property
    def pure(self) -> PurePosixPath:
        """The path as an object."""
        return PurePosixPath(self.path)

    @property
    def is_python(self) -> bool:
        """Whether the file can be parsed as Python."""
        return self.path.endswith(".py")

    @property
    def is_test(self) -> bool:
        """Whether the file is under a `tests` folder."""
        return "tests" in self.pure.parts

    @property
    def is_source(self) -> bool:
        """Whether the file is product code: under a `src` folder of a library, service, the sandbox or the CLI."""
        return "src" in self.pure.parts and not self.is_test

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree; raises `SyntaxError`."""
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree."""
        return tuple(ast.walk(self.tree))

    @cached_property
    def imports(self) -> dict[str, str]:
        """Local name to dotted origin, for every import of the module."""
        out: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    out[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    out[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
        return out

    def dotted(self, node: ast.expr) -> str:
        """Return the origin of a name or attribute chain (`dt.now` → `datetime.datetime.now`); empty if unknown."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        parts.append(self.imports.get(node.id, node.id))
        return ".".join(reversed(parts))

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Yield every call with the dotted origin of what is called."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield node, self.dotted(node.func)

    @cached_property
    def escapes(self) -> tuple[Escape, ...]:
        """The `lint-skip` comments of the file."""
        if "lint-skip:" not in self.text:
            return ()
        lines = self.text.splitlines()
        comments = _python_comments(self.text) if self.is_python else dict(enumerate(lines, start=1))
        out: list[Escape] = []
        for number, comment in comments.items():
            found = _ESCAPE.search(comment)
            if found:
                alone = lines[number - 1].lstrip().startswith(("#", "<!--", "//"))
                covers = (number, number + 1) if alone else (number,)
                out.append(Escape(number, found["id"], found["reason"].strip(), covers))
        return tuple(out)


@dataclass(frozen=True)
class Project:
    """The files under version control, or about to be, of one repository."""

    root: Path
    sources: tuple[Source, ...] = field(repr=False)

    @cached_property
    def paths(self) -> frozenset[str]:
        """All paths, relative to the root."""
        return frozenset(source.path for source in self.sources)

    def python(self, where: Callable[[Source], bool]) -> Iterator[Source]:
        """Yield the Python files for which `where` holds."""
        return (source for source in self.sources if source.is_python and where(source))

    def under(self, folder: str) -> Iterator[Source]:
        """Yield the files below a folder given relative to the root, with a slash at its end."""
        return (source for source in self.sources if source.path.startswith(folder))


def load(root: Path) -> Project:
    """Read the project at `root`: everything that git tracks or would add; binary files are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    sources: list[Source] = []
    for path in sorted(set(listed.stdout.decode().split("\0")) - {""}):
        target = root / path
        # Files that are deleted but still in the index, and links, which lead to files that are listed themselves.
        if not target.is_file() or target.is_symlink():
            continue
        raw = target.read_bytes()
        if b"\0" not in raw:
            sources.append(Source(path, raw.decode(errors="replace")))
    return Project(root, tuple(sources))


def _python_comments(text: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
