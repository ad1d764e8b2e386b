"""PRV006: a folder holds at most 500 lines of Python beside its tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

# codebase.md §5: what does not fit belongs into a generic strategy that a manifest can name.
MAX_LINES: Final = 500


def check(folder: Path) -> Iterator[str]:
    files = [path for path in folder.rglob("*.py") if "tests" not in path.relative_to(folder).parts]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    if lines > MAX_LINES:
        yield f"{lines} lines of Python, at most {MAX_LINES} are allowed"
