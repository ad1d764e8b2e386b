"""PRV007: a provider with webhooks has signing vectors, valid and invalid ones, each with its source."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.providers_check.common import provider_of

ORIGINS: Final = ("published", "sdk", "computed", "derived")


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None or provider.manifest.webhook is None:
        return
    path = folder / "fixtures" / "vectors.toml"
    try:
        vectors = tomllib.loads(path.read_text(encoding="utf-8")).get("vectors", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        yield f"fixtures/vectors.toml cannot be read: {error}"
        return
    for valid in (True, False):
        if not any(vector.get("valid") is valid for vector in vectors):
            yield f"no {'valid' if valid else 'invalid'} signing vector"
    for vector in vectors:
        if not vector.get("source") or vector.get("origin") not in ORIGINS:
            yield f"vector {vector.get('id')} needs a source, and an origin of {', '.join(ORIGINS)}"
