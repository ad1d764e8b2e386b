"""PB001: no provider is named under services/.

A provider is one folder that can be deleted; a service that names one would break or, worse, treat it specially. Words
are the folder names and display names of the providers whose manifest is not of the category `generic` (those are
named after open standards, which services may speak of). Found in code, comments, prose and configuration alike, also
inside `snake_case` and `CamelCase` names.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB001"
_PROVIDERS = "libs/providers/src/providers/"
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def check(project: Project) -> Iterator[Finding]:
    """Yield every line under services/ that names a provider."""
    names = provider_names(project)
    if not names:
        return
    words = "|".join(re.sub(r"[-_ ]", "[-_ ]", re.escape(name).replace("\\", "")) for name in sorted(names))
    pattern = re.compile(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", re.IGNORECASE)
    for source in project.under("services/"):
        for number, line in enumerate(source.text.splitlines(), start=1):
            found = pattern.search(line) or pattern.search(_CAMEL.sub("_", line))
            if found:
                yield Finding(source.path, number, ID, f"names the provider {found[0].lower()!r}; use its manifest")


def provider_names(project: Project) -> set[str]:
    """Return the slugs and display names of all providers, lower-case."""
    out: set[str] = set()
    for source in project.under(_PROVIDERS):
        if source.pure.name == "manifest.toml":
            manifest = tomllib.loads(source.text)
            if manifest.get("category") != "generic":
                out.add(source.pure.parent.name.lower())
                out.add(str(manifest.get("name", source.pure.parent.name)).lower())
    return out
