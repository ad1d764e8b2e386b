"""PRV002: README.md has the sections that a person needs to set the provider up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SECTIONS: Final = ("Set up", "Limits", "Quirks", "Not confirmed")


def check(folder: Path) -> Iterator[str]:
    path = folder / "README.md"
    if not path.is_file():
        yield "README.md is missing"
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for section in SECTIONS:
        if f"## {section}" not in lines:
            yield f"README.md has no section '## {section}'"
            continue
        rest = lines[lines.index(f"## {section}") + 1 :]
        body = next((line for line in rest if line.strip()), "#")
        if body.startswith("#"):
            yield f"README.md section '{section}' is empty"
