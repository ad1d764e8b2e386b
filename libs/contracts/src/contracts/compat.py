"""Tells whether a new JSON Schema of a message still lets old and new services talk.

Policy: readers ignore unknown fields, writers emit declared ones only; within a major version a new reader reads every
old value (BACKWARD), and a field that was required stays required, because old readers need it (FORWARD, for required
fields only). A break needs a new major, hence a new topic. Must never call a break compatible: what the checker does
not understand is a finding. Two facts are not in a schema, so not checked: validators in Python code (such as an
instant's offset), and old readers meeting a new enum member.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

Schema = Mapping[str, Any] | bool

# Say nothing about which values are valid. `discriminator` goes with `oneOf`, whose tagged alternatives exclude each
# other in what pydantic emits, so that `oneOf` means `anyOf`.
_ANNOTATIONS: Final = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "discriminator",
        "$id",
        "$schema",
        "$defs",
        "$comment",
    },
)
_LOWER: Final = ("minLength", "minItems", "minProperties")
_UPPER: Final = ("maxLength", "maxItems", "maxProperties")
_HANDLED: Final = _ANNOTATIONS.union(
    (*_LOWER, *_UPPER, "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"),
    ("type", "const", "enum", "items", "prefixItems", "properties", "required", "additionalProperties"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One breaking change: JSON path of the place, id of the rule that it breaks, explanation.

    Rules: `type`, `enum`, `bound`, `required-added`, `required-removed`, `additional` (a closed object), `keyword` (a
    constraint such as `pattern` or `format` that is new, differs or is unknown to the checker).
    """

    path: str
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}: {self.message}"


def breaking_changes(old: Schema, new: Schema) -> list[Finding]:
    """Return what breaks when `new` replaces `old`; empty when the change is compatible.

    Both are schemas as pydantic emits them in serialization mode. Pure; raises `KeyError` for a `$ref` that is not in
    the document's `$defs`.
    """
    return _Comparison(_definitions(old), _definitions(new)).compare(old, new, "$")


class _Comparison:
    """Compares two documents; keeps the pairs of definitions under comparison, since models may be recursive."""

    def __init__(self, old_defs: Mapping[str, Any], new_defs: Mapping[str, Any]) -> None:
        self._old_defs = old_defs
        self._new_defs = new_defs
        self._active: set[tuple[str, str]] = set()

    def compare(self, old: Schema, new: Schema, path: str) -> list[Finding]:
        pair = (_reference(old), _reference(new))
        if all(pair):
            # Meeting the same pair again on the way down adds nothing: whatever breaks is reported by the outer one.
            if pair in self._active:
                return []
            self._active.add(pair)
        try:
            return self._unions(_resolve(old, self._old_defs), _resolve(new, self._new_defs), path)
        finally:
            if all(pair):
                self._active.discard(pair)

    def _unions(self, old: Schema, new: Schema, path: str) -> list[Finding]:
        if old is False or not _constrains(new):
            return []
        if not _is_object(new):
            return [Finding(path, "type", "no value is accepted any more")]
        if not _is_object(old) or not _constrains(old):
            return [Finding(path, "type", "any value was allowed, now it is constrained")]
        olds, news = _alternatives(old, split_enum=True), _alternatives(new, split_enum=False)
        if olds == [old] and news == [new]:
            return self._single(old, new, path)
        out: list[Finding] = []
        for one in olds:
            results = [self.compare(one, other, path) for other in news]
            nearest = min(results, key=_remoteness)
            out.extend(nearest)
        return out

    def _single(self, old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Finding]:
        if "const" in old:
            value = old["const"]
            if "const" in new or "enum" in new:
                if any(_same(value, allowed) for allowed in new.get("enum", [new.get("const")])):
                    return []
                return [Finding(path, "enum", f"{value!r} is no longer accepted")]
            old = _singleton(value)
        elif "const" in new or "enum" in new:
            return [Finding(path, "enum", "only certain values are accepted now")]
        types, accepted = _types(old), _types(new)
        if accepted and not types:
            return [Finding(path, "type", "the type was open, now it is fixed")]
        if accepted and not types <= accepted | ({"integer"} if "number" in accepted else set()):
            return [Finding(path, "type", f"{_words(types)} became {_words(accepted)}")]
        return [
            *_bounds(old, new, path),
            *_keywords(old, new, path),
            *self._array(old, new, path),
            *self._object(old, new, path),
        ]

    def _array(self, old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Finding]:
        old_prefix, new_prefix = old.get("prefixItems", []), new.get("prefixItems", [])
        longest = max(len(old_prefix), len(new_prefix))
        old_rest, new_rest = old.get("items", True), new.get("items", True)
        most = old.get("maxItems", math.inf)
        out: list[Finding] = []
        for at in range(min(longest, most)):
            one = old_prefix[at] if at < len(old_prefix) else old_rest
            other = new_prefix[at] if at < len(new_prefix) else new_rest
            out.extend(self.compare(one, other, f"{path}[{at}]"))
        if most > longest:
            out.extend(self.compare(old_rest, new_rest, f"{path}[]"))
        return out

    def _object(self, old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Finding]:
        was, now = old.get("properties", {}), new.get("properties", {})
        # Without the keyword a writer emits declared fields only, and a reader ignores the others.
        old_rest, new_rest = old.get("additionalProperties", False), new.get("additionalProperties", True)
        required, required_now = set(old.get("required", ())), set(new.get("required", ()))
        out = [
            Finding(f"{path}.{name}", "required-added", "required now, but old values may lack it")
            for name in sorted(required_now - required)
        ]
        out.extend(
            Finding(f"{path}.{name}", "required-removed", "old readers require it")
            for name in sorted(required - required_now)
        )
        for name in sorted({*was, *now}):
            if name in was and name not in now and new_rest is False:
                out.append(Finding(f"{path}.{name}", "additional", "dropped from an object that allows no other field"))
            else:
                out.extend(self.compare(was.get(name, old_rest), now.get(name, new_rest), f"{path}.{name}"))
        out.extend(self.compare(old_rest, new_rest, f"{path}.*"))
        return out


def _definitions(schema: Schema) -> Mapping[str, Any]:
    return schema.get("$defs", {}) if _is_object(schema) else {}


def _is_object(schema: Schema) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(schema, Mapping)


def _constrains(schema: Schema) -> bool:
    return not schema if isinstance(schema, bool) else bool(schema.keys() - _ANNOTATIONS)


def _reference(schema: Schema) -> str:
    return str(schema.get("$ref", "")) if _is_object(schema) else ""


def _resolve(schema: Schema, definitions: Mapping[str, Any]) -> Schema:
    """Return the schema with its `$ref` replaced by the definition; keywords beside the reference stay."""
    while _is_object(schema) and "$ref" in schema:
        target = definitions[schema["$ref"].removeprefix("#/$defs/")]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema


def _alternatives(schema: Mapping[str, Any], *, split_enum: bool) -> list[Mapping[str, Any]]:
    """Return the schemas of which a value matches one: the members of a union, a type list or (old side) an enum."""
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            beside = {key: value for key, value in schema.items() if key not in {keyword, *_ANNOTATIONS}}
            return [{**beside, **(one if _is_object(one) else {})} for one in schema[keyword]]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": one} for one in schema["type"]]
    if split_enum and "enum" in schema:
        return [{"const": value} for value in schema["enum"]]
    return [schema]


def _remoteness(findings: list[Finding]) -> tuple[int, int]:
    """Order the failed comparisons with a union's members: the member meant is the one with the same type."""
    return (sum(finding.rule == "type" for finding in findings), len(findings))


def _types(schema: Mapping[str, Any]) -> set[str]:
    return {schema["type"]} if "type" in schema else set()


def _words(types: Iterable[str]) -> str:
    return " or ".join(sorted(types))


def _type_of(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _same(one: object, other: object) -> bool:
    return one == other and _type_of(one) == _type_of(other)


def _singleton(value: object) -> dict[str, Any]:
    """Return a schema, in keywords that can be compared, of which `value` is an instance."""
    schema: dict[str, Any] = {"type": _type_of(value)}
    if isinstance(value, str):
        schema |= {"minLength": len(value), "maxLength": len(value)}
    elif isinstance(value, int | float) and not isinstance(value, bool):
        schema |= {"minimum": value, "maximum": value}
    return schema


def _bounds(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Finding]:
    out = [
        Finding(path, "bound", f"{key} {new[key]} is narrower than {old.get(key, 'none')}")
        for key, sign in (*((key, 1) for key in _LOWER), *((key, -1) for key in _UPPER))
        if key in new and sign * new[key] > sign * old.get(key, -sign * math.inf)
    ]
    for least, exclusive, sign in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        was, now = (
            max((sign * schema.get(least, -sign * math.inf), 0), (sign * schema.get(exclusive, -sign * math.inf), 1))
            for schema in (old, new)
        )
        if now > was and now[0] != -math.inf:
            out.append(Finding(path, "bound", f"{least} is narrower than before"))
    return out


def _keywords(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[Finding]:
    """Report every other constraint that is not word for word the old one; one with a `$ref` inside is never equal."""
    return [
        Finding(path, "keyword", f"{key} is new or differs: {new[key]!r}")
        for key in sorted(new.keys() - _HANDLED)
        if key not in old or old[key] != new[key] or "$ref" in str(new[key])
    ]
