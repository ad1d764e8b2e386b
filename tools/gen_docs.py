"""Writes the reference pages, docs/reference/*.md, from the code they describe, or checks that they are current.

Run from the repository root: `python -m tools.gen_docs [--check]`. The pages depend on the code alone, never on the
machine or its environment, and must never hold the value of a secret.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import AliasChoices, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from chassis.settings import DatabaseSettings, ServiceSettings
from contracts.catalogue import CATALOGUE
from contracts.errors import Invalid, PatchbayError, Terminal, Transient
from contracts.events.base import Event
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes
from contracts.operations import arguments_of
from contracts.topics import AUDIT_PARTITIONS, DAY_MS, RETRY_DELAYS, TOPICS, Topic
from tools.markdown import Row, doc, fields, literal, page, table
from tools.operations_page import declared_operations, operations_page

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = Path("docs/reference")
_FAILURES: Final[tuple[type[PatchbayError], ...]] = (Invalid, Transient, Terminal)


def topics_page() -> str:
    """Return the page of all topics."""
    rows = [
        (
            literal(topic.name),
            topic.key,
            str(topic.partitions),
            "compacted" if topic.compacted else f"{topic.retention_ms // DAY_MS} d",
            ", ".join(map(literal, topic.types)),
            ", ".join(topic.writers),
            ", ".join(topic.readers) or "anyone outside Patchbay",
            "yes" if topic.retries else "no",
        )
        for topic in TOPICS
    ]
    delays = ", ".join(literal(f"<topic>.retry.{delay}") for delay in RETRY_DELAYS)
    notes = (
        f"Topics with retries also have {delays} and `<topic>.dlq`, one partition each. The audit topic has "
        f"{AUDIT_PARTITIONS} partition, because its sequencer is one consumer."
    )
    columns = ("Topic", "Key", "Partitions", "Kept", "Types", "Writer", "Readers", "Retries")
    return page("Topics", notes, table(columns, rows))


def events_page() -> str:
    """Return the page of all messages: one section per CloudEvents type."""
    carriers: defaultdict[str, list[Topic]] = defaultdict(list)
    for topic in TOPICS:
        for name in topic.types:
            carriers[name].append(topic)
    sections = [_delivery_section(carriers[DELIVERY_ACCEPTED])]
    sections.extend(_event_section(CATALOGUE[name], carriers[name]) for name in sorted(CATALOGUE))
    intro = (
        "CloudEvents 1.0 in Kafka's binary mode: attributes are `ce_*` headers, the value is the data. Readers ignore "
        "unknown fields. Within a major version a field that was required stays required and no value that was valid "
        "becomes invalid."
    )
    return page("Events and commands", intro, *sections)


def _delivery_section(topics: Sequence[Topic]) -> str:
    rows = [
        (literal(f"ce_{field.name}"), "" if field.default is dataclasses.MISSING else "default")
        for field in dataclasses.fields(DeliveryAttributes)
    ]
    heading = _heading(DELIVERY_ACCEPTED, topics, doc(DeliveryAttributes))
    value = "The value is the provider's body as received; the facts are these headers, which older gateways may lack "
    return f"{heading}\n{value}where a default is noted.\n\n{table(('Header', 'If absent'), rows)}"


def _event_section(model: type[Event], topics: Sequence[Topic]) -> str:
    schema = model.model_json_schema(mode="serialization")
    out = [_heading(model.TYPE, topics, doc(model)), fields(schema)]
    for name, part in sorted(schema.get("$defs", {}).items()):
        if "properties" in part:
            out.append(f"`{name}`: {part.get('description', '')}\n\n{fields(part)}")
    return "\n".join(out)


def _heading(name: str, topics: Sequence[Topic], words: str) -> str:
    return f"## {name}\n\nOn {', '.join(literal(topic.name) for topic in topics)}.\n\n{words}\n"


# How far a vector can be trusted, best first: the vendor's own value, its SDK's, ours by its documented scheme.
_ORIGINS: Final = ("published", "sdk", "derived", "computed")


def providers_page(root: Path) -> str:
    """Return the page of all providers, read from their manifests, operations and vectors."""
    coverage, received, called = [], [], []
    for path in sorted(root.glob("libs/providers/src/providers/*/manifest.toml")):
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
        slug, operations = manifest.get("slug", path.parent.name), declared_operations(path, manifest)
        code, scheme = literal(slug), manifest.get("webhook", {}).get("signature", {}).get("scheme", "")
        handshakes = ", ".join(one.get("name", "") for one in manifest.get("webhook", {}).get("handshakes", []))
        if "webhook" in manifest:
            received.append((code, scheme, handshakes, _best_vector(path)))
        if operations:
            called.append((code, *_outbound(manifest, operations)))
        coverage.append((code, *_coverage(manifest, slug, len(operations))))
    inbound = (
        f"{len(received)} of {len(coverage)} providers send webhooks that are verified. The best test vector of each is"
        " the vendor's own (`published`), its SDK's (`sdk`), or made by its documented scheme (`derived`, `computed`)."
    )
    outbound = (
        f"{len(called)} of {len(coverage)} providers are called. After a lost answer an operation is sent again, where"
        " a key or its nature makes that harmless, or looked up. A person settles those of the last column."
    )
    return page(
        "Providers",
        table(("Slug", "Provider", "Category", "Tier", "Inbound", "Outbound"), coverage),
        "## Inbound\n",
        inbound,
        table(("Slug", "Webhook signature", "Handshakes", "Best test vector"), received),
        "## Outbound\n",
        outbound,
        table(("Slug", "Capabilities", "Authentication", "Operations", "Settled by a person"), called),
    )


def _coverage(manifest: Mapping[str, Any], slug: str, operations: int) -> Row:
    name = manifest.get("name", slug)
    link = f"[{name}]({manifest['docs']})" if "docs" in manifest else name
    changes = manifest.get("changes", {}).get("how", "")
    inbound = "webhooks" if "webhook" in manifest else f"asked: {changes}" if changes else ""
    outbound = f"{operations} operation{'' if operations == 1 else 's'}" if operations else ""
    return link, manifest.get("category", ""), manifest.get("tier", ""), inbound, outbound


def _outbound(manifest: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]) -> Row:
    by_person = [
        one
        for one in operations
        if one["idempotency"]["kind"] == "none"
        and not (one.get("look_up") or one.get("look_up_by_code"))
        and arguments_of(one["name"]).WRITES
    ]
    offered, settled = (", ".join(sorted(literal(one["name"]) for one in some)) for some in (operations, by_person))
    methods = manifest.get("api", {}).get("auth", {})
    return ", ".join(manifest.get("capabilities", [])), ", ".join(methods), offered, settled


def _best_vector(manifest: Path) -> str:
    path = manifest.parent / "fixtures" / "vectors.toml"
    if not path.is_file():
        return ""
    found = tomllib.loads(path.read_text(encoding="utf-8")).get("vectors", [])
    found = [one for one in found if one.get("valid") and one.get("origin") in _ORIGINS]
    if not found:
        return ""
    best = min(found, key=lambda one: _ORIGINS.index(one["origin"]))
    source = str(best["source"]).removeprefix(f"{best['origin']} ")
    return f"{best['origin']}: {source}".replace("|", "\\|")


def codeowners(root: Path) -> str:
    """Return the CODEOWNERS file: who owns a provider stands in its manifest."""
    lines = ["# Generated by `make docs` from the providers' manifests.", "* @patchbay/core"]
    for path in sorted(root.glob("libs/providers/src/providers/*/manifest.toml")):
        owners = tomllib.loads(path.read_text(encoding="utf-8"))["owners"]
        lines.append(f"/{path.parent.relative_to(root)}/ {' '.join(owners)}")
    return "\n".join(lines) + "\n"


def metrics_page(modules: Iterable[str]) -> str:
    """Return the page of all metrics, each once: in the section of the module whose `METRICS` is the shortest."""
    listed = {module: getattr(importlib.import_module(module), "METRICS", ()) for module in modules}
    # The longest first, so that the shortest has the last word.
    home = {m.name: module for module in sorted(listed, key=lambda one: -len(listed[one])) for m in listed[module]}
    sections = []
    for module, metrics in listed.items():
        own = [m for m in metrics if home[m.name] == module]
        rows = sorted((literal(m.name), m.kind, ", ".join(map(literal, m.labels)), m.help) for m in own)
        if rows:
            sections.append(f"## {module}\n\n{table(('Metric', 'Kind', 'Labels', 'Meaning'), rows)}")
    return page("Metrics", *sections)


def settings_page(modules: Iterable[str]) -> str:
    """Return the page of all settings: those every service has, then the own ones of each service."""
    sections = [_settings_section("every service", ServiceSettings, set())]
    common = set(ServiceSettings.model_fields)
    sections.append(_settings_section("services with a database", DatabaseSettings, common))
    common |= set(DatabaseSettings.model_fields)
    for module in modules:
        settings: type[BaseSettings] = importlib.import_module(module).Settings
        sections.append(_settings_section(module.split(".", maxsplit=1)[0].replace("_", "-"), settings, common))
    return page("Settings", "Environment variables, read once at start.", *sections)


def _settings_section(title: str, settings: type[BaseSettings], known: set[str]) -> str:
    rows = [
        (
            literal(env_name(settings, name, field)),
            literal(_annotation(field)),
            _default(field),
            field.description or "",
        )
        for name, field in settings.model_fields.items()
        # A service that gives an inherited setting another default says so in its own section.
        if name not in known or field.default != DatabaseSettings.model_fields[name].default
    ]
    body = table(("Variable", "Type", "Default", "Meaning"), rows) if rows else "No settings of its own.\n"
    return f"## {title}\n\n{body}"


def env_name(settings: type[BaseSettings], name: str, field: FieldInfo) -> str:
    """Return the environment variable of a setting: its alias, else the prefix and its name, in upper case."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = str(alias.choices[0])
    if isinstance(alias, str):
        return alias.upper()
    return f"{settings.model_config.get('env_prefix', '')}{name}".upper()


def _annotation(field: FieldInfo) -> str:
    annotation = field.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _is_secret(field: FieldInfo) -> bool:
    return any(secret.__name__ in str(field.annotation) for secret in (SecretStr, SecretBytes))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if _is_secret(field):
        return "hidden"
    default = field.default
    if default is PydanticUndefined:
        return "computed"
    return "unset" if default is None else literal(json.dumps(default, default=str))


def errors_page(root: Path) -> str:
    """Return the page of failure words and of every code that product code raises with one."""
    rows: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path in _product_code(root):
        package = path.relative_to(root).as_posix().split("/src/", 1)[1].removesuffix(".py").replace("/", ".")
        for word, code in raised_codes(path.read_text(encoding="utf-8")):
            rows[code, word].add(literal(package.removesuffix(".__init__")))
    words = table(("Word", "What the consumer does"), [(literal(word.__name__), doc(word)) for word in _FAILURES])
    codes = table(
        ("Code", "Word", "Raised in"),
        [(literal(code), literal(word), ", ".join(sorted(places))) for (code, word), places in sorted(rows.items())],
    )
    return page("Errors", words, "## Codes\n", codes)


def raised_codes(text: str) -> Iterator[tuple[str, str]]:
    """Yield (failure word, code) of every failure made with a literal code in a module's source."""
    words = {word.__name__ for word in _FAILURES}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in words and node.args:
            code = node.args[0]
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                yield node.func.id, code.value


def _product_code(root: Path) -> list[Path]:
    return sorted([*root.glob("libs/*/src/**/*.py"), *root.glob("services/*/src/**/*.py")])


def modules_named(root: Path, name: str, patterns: Sequence[str]) -> list[str]:
    """Return the dotted names of all modules `<name>.py` below the given folders, sorted."""
    found = [path for pattern in patterns for path in root.glob(f"{pattern}/**/{name}.py")]
    return sorted(path.as_posix().split("/src/", 1)[1].removesuffix(".py").replace("/", ".") for path in found)


def pages(root: Path) -> dict[Path, str]:
    """Return all pages: path from the root, and text."""
    return {
        PAGES / "topics.md": topics_page(),
        PAGES / "events.md": events_page(),
        PAGES / "providers.md": providers_page(root),
        PAGES / "operations.md": operations_page(root),
        PAGES / "metrics.md": metrics_page(modules_named(root, "metrics", ("libs/*/src", "services/*/src"))),
        PAGES / "settings.md": settings_page(modules_named(root, "settings", ("services/*/src",))),
        PAGES / "errors.md": errors_page(root),
        Path("CODEOWNERS"): codeowners(root),
    }


def stale(root: Path, expected: Mapping[Path, str]) -> list[Path]:
    """Return the pages that are missing or differ."""
    return [
        path
        for path, text in expected.items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gen_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a page is stale")
    options = parser.parse_args(arguments)
    expected = pages(ROOT)
    outdated = stale(ROOT, expected)
    for path in outdated:
        if options.check:
            print(f"{path}: stale; run `make docs`", file=sys.stderr)
        else:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(expected[path], encoding="utf-8")
    return 1 if options.check and outdated else 0


if __name__ == "__main__":
    raise SystemExit(main())
