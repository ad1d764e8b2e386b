"""PB009: folder, distribution and import name of a service or library are one name.

`services/webhook-gateway` is the distribution `webhook-gateway` and the import `webhook_gateway`: hyphen to
underscore, always, so that nobody has to look up any of the three.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB009"
_DEPTH = 3  # services/<folder>/pyproject.toml


def check(project: Project) -> Iterator[Finding]:
    """Yield every service or library whose names differ."""
    for source in project.sources:
        parts = source.pure.parts
        if len(parts) != _DEPTH or parts[0] not in {"services", "libs"} or parts[2] != "pyproject.toml":
            continue
        folder = parts[1]
        declared = tomllib.loads(source.text).get("project", {}).get("name")
        if declared != folder:
            yield Finding(source.path, 1, ID, f"distribution {declared!r} in folder {folder!r}")
        prefix = f"{parts[0]}/{folder}/src/"
        packages = {path.removeprefix(prefix).split("/")[0] for path in project.paths if path.startswith(prefix)}
        if packages != {folder.replace("-", "_")}:
            found = ", ".join(sorted(packages)) or "nothing"
            yield Finding(source.path, 1, ID, f"src/ holds {found}, not {folder.replace('-', '_')} alone")
