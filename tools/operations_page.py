"""The reference page of operations: what each is asked with, who offers it, and what comes back."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from contracts.operations import OPERATIONS, Arguments
from tools.markdown import Row, doc, fields, literal, page, table, type_of

Operation = Mapping[str, Any]
"""One table `[[operations]]` as its file has it."""

_KEY: Final = "effect_key"
_INTRO: Final = (
    "What can be asked of providers, by `POST /v1/operations`, `patchbay run OPERATION` or a saga's step. An operation "
    "means the same wherever it is carried out; unless you name a connection or a provider, the capability's "
    "[route](../concepts/failover.md) chooses one. Personal arguments are sealed before they are stored or published."
)
_WORDS: Final = (
    "**Class**: `retry_safe` may be sent to a backup provider, `unsafe` only if it provably never left, `pinned` never "
    "leaves the provider that holds the object. **After a lost answer** says how it is found out without doing it "
    "twice ([effects](../concepts/calls-to-providers.md#effects)). **Result** is what `patchbay run` prints and a saga "
    "can use; `content` is the answer itself, sealed: `patchbay effects result KEY`. Money, in arguments and results, "
    "is an integer in the minor unit of the `currency` beside it (ISO 4217): 1250 is EUR 12.50, JPY 1250."
)


def declared_operations(manifest: Path, declared: Operation) -> list[dict[str, Any]]:
    """Return the operations of a provider's folder: those of its manifest and of the file beside it."""
    path = manifest.parent / "operations.toml"
    beside = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return [*declared.get("operations", []), *beside.get("operations", [])]


def operations_page(root: Path) -> str:
    """Return the page of all operations, with who offers each by the folders below `root`."""
    offers = _offers(root)
    index = [
        (f"[`{name}`](#{name.replace('.', '')})", literal(model.CAPABILITY), str(len(offers[name])), _summary(model))
        for name, model in OPERATIONS.items()
    ]
    sections = [_section(name, model, offers[name]) for name, model in OPERATIONS.items()]
    return page("Operations", _INTRO, _WORDS, table(("Operation", "Capability", "Providers", ""), index), *sections)


def _offers(root: Path) -> defaultdict[str, list[tuple[str, Operation]]]:
    found: defaultdict[str, list[tuple[str, Operation]]] = defaultdict(list)
    for path in sorted(root.glob("libs/providers/src/providers/*/manifest.toml")):
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
        for one in declared_operations(path, manifest):
            found[one["name"]].append((manifest.get("slug", path.parent.name), one))
    return found


def _summary(model: type[Arguments]) -> str:
    return doc(model).split("\n\n", maxsplit=1)[0]


def _section(name: str, model: type[Arguments], offers: list[tuple[str, Operation]]) -> str:
    what = "changes something there" if model.WRITES else "only reads"
    parts = [f"## {name}\n\n{doc(model)} Capability `{model.CAPABILITY}`; it {what}.\n"]
    schema = model.model_json_schema()
    rows = list(_arguments(schema))
    parts.append(table(("Argument", "Type", "Required", "Meaning"), rows) if rows else "It takes no arguments.\n")
    for part, inside in sorted(schema.get("$defs", {}).items()):
        parts.append(f"`{part}`:\n\n{table(('Field', 'Type', 'Required', 'Meaning'), _arguments(inside))}")
    if model.CONTENT is not None:
        parts.append(_content(model.CONTENT))
    offered = [_offer(slug, one, writes=model.WRITES) for slug, one in offers]
    columns = ("Provider", "Class", "After a lost answer", "Result", "Note")
    parts.append(table(columns, offered) if offered else "No provider offers it.\n")
    return "\n".join(parts)


def _content(model: type[BaseModel]) -> str:
    """Return what the content of a result is, where the contract says so."""
    schema = model.model_json_schema()
    told = [f"The `content` of its result, whoever answers:\n\n{fields(schema)}"]
    told += [f"`{name}`: {part['description']}\n\n{fields(part)}" for name, part in schema.get("$defs", {}).items()]
    return "\n".join(told)


def _arguments(schema: Mapping[str, Any]) -> Iterator[Row]:
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        if name == _KEY:
            continue
        kept = field.get("default")
        needed = "yes" if name in required else "no" if kept is None else f"no: {literal(str(kept))}"
        meaning = field.get("description", "")
        yield literal(name), _type(field), needed, f"{meaning}; personal" if field.get("personal") else meaning


def _type(field: Mapping[str, Any]) -> str:
    """Return a type in words; that an optional argument may also be null says nothing more."""
    given = [one for one in field.get("anyOf", ()) if one.get("type") != "null"]
    return type_of(given[0] if len(given) == 1 else field)


def _offer(slug: str, one: Operation, *, writes: bool) -> Row:
    answer = one.get("answer", {})
    amounts = [*answer.get("amounts", {}), "currency"] if answer.get("amounts") else []
    names = [*answer.get("result", {}), *amounts, *(["content"] if answer.keys() & {"content", "balances"} else [])]
    result = ", ".join(map(literal, names))
    return literal(slug), literal(one.get("class", "")), _after_loss(one, writes=writes), result, one.get("note", "")


def _after_loss(one: Operation, *, writes: bool) -> str:
    how = one["idempotency"]
    if how["kind"] == "natural":
        return "sent again: it leaves the same state" if writes else "asked again"
    ways = []
    if how["kind"] != "none":
        lifetime = f", for {how['lifetime_h']:g} h" if "lifetime_h" in how else ""
        ways.append(f"sent again with the same key ({how['kind']} {literal(how['name'])}{lifetime})")
    if one.get("look_up") or one.get("look_up_by_code"):
        ways.append("looked up")
    return ", or ".join(ways) or ("a person settles it" if writes else "asked again")
