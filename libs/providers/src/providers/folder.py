"""A provider's folder: its manifest, the options' defaults, and the modules that it may bring.

Must never do I/O beyond reading the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from providers.manifest import Manifest


class Folder:
    """A folder with a loaded manifest."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Provider({self.slug!r})"

    @property
    def slug(self) -> str:
        """The provider's name in keys, topics and URLs."""
        return self.manifest.slug

    @cached_property
    def default_options(self) -> Mapping[str, str]:
        """The defaults of all options."""
        return self.manifest.resolve_options({})

    def _options(self, given: Mapping[str, str] | None) -> Mapping[str, str]:
        return {**self.default_options, **given} if given else self.default_options

    def _has(self, module: str) -> bool:
        return (self.folder / f"{module}.py").is_file()

    def _module(self, module: str) -> Any:
        return import_module(f"providers.{self.slug}.{module}")
