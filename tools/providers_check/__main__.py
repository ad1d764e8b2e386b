"""Check the provider folders: `python -m tools.providers_check [--root DIR] [--write-golden] [SLUG …]`.

Prints one line per finding, `<slug>: <rule> <what is wrong>`, and exits with 1 if there is any; without findings the
tiers and exemptions of all folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from providers.provider import Provider

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent


def findings(folder: Path) -> Iterator[str]:
    """Yield the findings of all rules for one provider folder, in the order of the rules."""
    for path in sorted(HERE.glob("prv[0-9][0-9][0-9]_*.py")):
        rule = import_module(f"tools.providers_check.{path.stem}")
        for finding in rule.check(folder):
            yield f"{folder.name}: {path.stem[:6].upper()} {finding}"


def main(arguments: list[str]) -> int:
    """Run the checks; see the module docstring."""
    import providers  # noqa: PLC0415 (the script may first have to add the repository to the path)
    from providers.golden import write  # noqa: PLC0415
    from tools.providers_check.common import provider_of  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="providers_check", description="Check the shape of provider folders.")
    parser.add_argument("slugs", nargs="*", help="only these providers; all by default")
    parser.add_argument("--root", type=Path, default=Path(providers.__path__[0]), help="folder of provider folders")
    parser.add_argument("--write-golden", action="store_true", help="first write the golden readings anew")
    given = parser.parse_args(arguments)
    root: Path = given.root.resolve()
    if str(root) not in providers.__path__:
        providers.__path__.append(str(root))  # so that `providers.<slug>.normalise` is found there
    folders = [
        path for path in sorted(root.iterdir()) if _is_provider(path) and (not given.slugs or path.name in given.slugs)
    ]
    if given.write_golden:
        for provider in map(provider_of, folders):
            if provider is not None and provider.manifest.webhook is not None:
                write(provider)
    found = [finding for folder in folders for finding in findings(folder)]
    for finding in found:
        print(finding)
    if not found:
        for provider in map(provider_of, folders):
            if provider is not None:
                _tell(provider)
        print(f"{len(folders)} provider folders, no findings")
    return 1 if found else 0


def _tell(provider: Provider) -> None:
    """Print a provider's tier, and what it is exempt from: rules of the tier, and conformance cases of its scheme."""
    from tools.providers_check.common import quality_of  # noqa: PLC0415
    from tools.providers_check.prv009_conformance import exemptions  # noqa: PLC0415

    manifest = provider.manifest
    how = (
        manifest.webhook.signature.scheme
        if manifest.webhook
        else f"changes: {manifest.changes.how if manifest.changes else '-'}"
    )
    print(f"{provider.slug}: {manifest.tier}, {how}")
    for rule, state in quality_of(provider.folder).get("rules", {}).items():
        if isinstance(state, dict):
            print(f"    rule {rule}: {state['exempt']}")
    if manifest.webhook is not None:
        by_reason: dict[str, list[str]] = {}
        for one in exemptions(provider):
            by_reason.setdefault(one.why, []).append(one.name)
        for why, names in by_reason.items():
            print(f"    no case {', '.join(names)}: {why}")


def _is_provider(path: Path) -> bool:
    # A folder that lost its manifest is a finding, a package of ours (it has __init__.py) is none.
    return path.is_dir() and not path.name.startswith(("_", ".")) and not (path / "__init__.py").exists()


if __name__ == "__main__":
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    sys.exit(main(sys.argv[1:]))
