"""PB010: the repository names no package registry.

People install through the mirror of their own organisation; a lock file or an index address would send them elsewhere,
or publish the name of an internal host. So no `://` under requirements/, no lock files, no index option, no host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tools.linters.source import Finding, Project

ID = "PB010"
_LOCKS = frozenset({"uv.lock", "pylock.toml", "poetry.lock", "Pipfile.lock", "package-lock.json", "yarn.lock"})
# In pieces, so that this file holds no such name itself.
_HOSTS = re.compile(
    "|".join(
        re.escape(".".join(labels))
        for labels in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("repo1", "maven", "org"),
            ("repo", "maven", "apache", "org"),
            ("proxy", "golang", "org"),
            ("crates", "io"),
        )
    )
)
_INDEX_OPTION = re.compile(
    r"""^\s*(?:--?)?(?:extra-)?index-url\b|^\s*\[\[(?:tool\.uv\.)?index\]\]|^\s*--find-links\b"""
)


def check(project: Project) -> Iterator[Finding]:
    """Yield lock files, addresses under requirements/ and every mention of a registry."""
    for source in project.sources:
        if source.pure.name in _LOCKS:
            yield Finding(source.path, 1, ID, "lock files name registry hosts; keep them out of the repository")
            continue
        for number, line in enumerate(source.text.splitlines(), start=1):
            if source.path.startswith("requirements/") and "://" in line:
                yield Finding(source.path, number, ID, "an address under requirements/")
            elif _HOSTS.search(line):
                yield Finding(source.path, number, ID, "names a package registry")
            elif not source.is_python and _INDEX_OPTION.search(line):
                yield Finding(source.path, number, ID, "chooses a package index; that is the user's configuration")
