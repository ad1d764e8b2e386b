"""PRV001: the manifest loads, and its slug is the folder's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from contracts.errors import Invalid
from providers.manifest import load


def check(folder: Path) -> Iterator[str]:
    try:
        manifest = load(folder / "manifest.toml")
    except OSError as error:
        yield f"manifest.toml cannot be read: {error.strerror}"
        return
    except Invalid as error:
        yield error.detail.removeprefix(f"{folder}/")
        return
    if manifest.slug != folder.name:
        yield f"slug {manifest.slug} is not the folder's name"
