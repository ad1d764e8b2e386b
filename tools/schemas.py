"""Writes the golden schemas of all messages and the AsyncAPI page of each service, or checks them.

Run from the repository root: `python -m tools.schemas [--check] [--base REF]`. Without `--check` it writes; with it, it
writes nothing and exits 1 when a golden is stale, a model breaks its predecessor, a topic's type has no model or a
model no topic. The predecessor is the golden at REF (default HEAD; CI gives the target branch), or the one in the
working tree when REF has none. Must never start a service or connect to a broker.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contracts.catalogue import CATALOGUE
from contracts.compat import breaking_changes
from contracts.events.base import Event
from contracts.events.gateway import DELIVERY_ACCEPTED
from contracts.topics import TOPICS

ROOT: Final = Path(__file__).resolve().parents[1]
SCHEMAS: Final = Path("libs/contracts/src/contracts/schemas")
# Its value is the provider's own body, so it has no model; its contract is DeliveryAttributes.
MODELLESS: Final = frozenset({DELIVERY_ACCEPTED})


def golden(model: type[Event]) -> str:
    """Return the text of a model's golden: its JSON Schema with sorted keys, `$id` being the CloudEvents type."""
    schema = {
        "$id": model.TYPE,
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(mode="serialization"),
    }
    return dump(schema)


def dump(document: Mapping[str, Any]) -> str:
    """Return a JSON document in the one format of all goldens."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def goldens() -> dict[Path, str]:
    """Return all message goldens: path from the root, and text."""
    return {SCHEMAS / f"{name}.json": golden(model) for name, model in CATALOGUE.items()}


def asyncapi_goldens(modules: Iterable[str]) -> tuple[dict[Path, str], list[str]]:
    """Return the AsyncAPI goldens of the services, and one problem per service that offers no document.

    A service offers it as `<module>.app:asyncapi() -> str`; its folder is found by the import name. The function must
    not connect anywhere.
    """
    out: dict[Path, str] = {}
    problems: list[str] = []
    for module in modules:
        path = Path("services") / module.replace("_", "-") / "asyncapi.json"
        try:
            document = importlib.import_module(f"{module}.app").asyncapi()
        except (ImportError, AttributeError) as error:
            problems.append(f"{path}: {module}.app:asyncapi is not available: {error}")
            continue
        out[path] = dump(json.loads(document))
    return out, problems


def service_modules(root: Path) -> list[str]:
    """Return the import names of all services, sorted."""
    return sorted(path.parent.name for path in root.glob("services/*/src/*/__init__.py"))


def stale(root: Path, expected: Mapping[Path, str], existing: Iterable[Path]) -> Iterator[str]:
    """Name the goldens that are missing, differ, or belong to nothing any more."""
    for path, text in expected.items():
        target = root / path
        if not target.is_file():
            yield f"{path}: missing; run `make schemas`"
        elif target.read_text(encoding="utf-8") != text:
            yield f"{path}: stale; run `make schemas`"
    for path in sorted(set(existing) - set(expected)):
        yield f"{path}: belongs to no model; run `make schemas`"


def incompatible(root: Path, expected: Mapping[Path, str], base: str) -> Iterator[str]:
    """Name the changes that break the golden of before; one for which there is none is new and breaks nothing."""
    for path, text in expected.items():
        before = _at(root, base, path)
        if before is not None:
            for finding in breaking_changes(json.loads(before), json.loads(text)):
                yield f"{path}: {finding} (a break needs a new major version and topic)"


def undeclared(topic_types: Iterable[str], modelled: Iterable[str]) -> Iterator[str]:
    """Name the types that a topic carries without a model, and the models that no topic carries."""
    carried, known = set(topic_types) - MODELLESS, set(modelled)
    for name in sorted(carried - known):
        yield f"contracts.topics: {name} has no model in contracts.catalogue"
    for name in sorted(known - carried):
        yield f"contracts.catalogue: {name} is on no topic of contracts.topics"


def _at(root: Path, base: str, path: Path) -> str | None:
    shown = subprocess.run(
        ["git", "show", f"{base}:{path.as_posix()}"], cwd=root, capture_output=True, text=True, check=False
    )
    if shown.returncode == 0:
        return shown.stdout
    target = root / path
    return target.read_text(encoding="utf-8") if target.is_file() else None


def _existing(root: Path) -> list[Path]:
    found = [*(root / SCHEMAS).glob("*.json"), *root.glob("services/*/asyncapi.json")]
    return [path.relative_to(root) for path in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.schemas", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    parser.add_argument("--base", default="HEAD", help="git revision whose goldens are the predecessors")
    options = parser.parse_args(arguments)
    messages = goldens()
    pages, problems = asyncapi_goldens(service_modules(ROOT))
    expected = messages | pages
    problems.extend(undeclared((name for topic in TOPICS for name in topic.types), CATALOGUE))
    problems.extend(incompatible(ROOT, messages, options.base))
    if options.check:
        problems.extend(stale(ROOT, expected, _existing(ROOT)))
    else:
        _write(ROOT, expected)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _write(root: Path, expected: Mapping[Path, str]) -> None:
    for path in set(_existing(root)) - set(expected):
        if path.is_relative_to(SCHEMAS):
            (root / path).unlink()
    for path, text in expected.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
