"""PRV005: every webhook fixture has the golden reading that the folder's code produces, and no golden is left over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import Invalid
from providers.golden import path_of, reading
from tools.providers_check.common import provider_of

HINT = "run python -m tools.providers_check --write-golden and review the diff"


def check(folder: Path) -> Iterator[str]:
    provider = provider_of(folder)
    if provider is None or provider.manifest.webhook is None:
        return
    wanted = {path_of(folder, fixture): fixture for fixture in provider.fixtures()}
    for path, fixture in wanted.items():
        try:
            found = reading(provider, fixture)
        except Invalid as error:
            yield f"fixture {fixture.name} cannot be read: {error.detail}"
            continue
        if not path.is_file():
            yield f"no golden reading of {fixture.name}: {HINT}"
        elif json.loads(path.read_text(encoding="utf-8")) != found:
            yield f"the golden reading of {fixture.name} differs: {HINT}"
    for path in sorted((folder / "fixtures" / "golden").glob("*.json")):
        if path not in wanted:
            yield f"golden {path.name} has no fixture"
