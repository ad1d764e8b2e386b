"""Runs every rule over the repository: `python -m tools.linters [paths…]`, exit 1 on findings.

Paths only narrow what is printed; rules always see the whole tree, since some relate files to each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tools.linters.runner import findings
from tools.linters.source import load

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings below the given paths (default: everywhere); return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.linters", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; default: the whole repository")
    wanted = [path.resolve() for path in parser.parse_args(arguments).paths] or [ROOT]
    found = [
        finding
        for finding in findings(load(ROOT))
        if any((ROOT / finding.path).is_relative_to(path) for path in wanted)
    ]
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
