"""PB008: all services have the same core files.

Someone who has read one service finds the entry point, the composition root, the consumers and the SQL of another
without searching.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB008"
CORE = ("__main__", "app", "settings", "handlers", "models", "repository", "metrics")
_DEPTH = 5  # services/<folder>/src/<package>/__init__.py


def check(project: Project) -> Iterator[Finding]:
    """Yield every core file that a service lacks."""
    for source in project.under("services/"):
        parts = source.pure.parts
        if len(parts) == _DEPTH and parts[2] == "src" and parts[4] == "__init__.py":
            home = source.pure.parent
            # A core file that outgrew one module is a package of the same name.
            missing = [
                name for name in CORE if not {f"{home}/{name}.py", f"{home}/{name}/__init__.py"} & set(project.paths)
            ]
            if missing:
                yield Finding(source.path, 1, ID, f"core files are missing: {', '.join(missing)}")
