"""How the reference pages are written: Markdown tables, and JSON Schemas in words. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

_HEADER: Final = "<!-- Written by `make docs`; edit the code instead. -->\n"

Row = Sequence[str]


def table(columns: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table; a cell's line breaks and bars are made harmless."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def page(title: str, *parts: str) -> str:
    """Return a generated page."""
    return "\n".join([_HEADER + f"\n# {title}\n", *(part.rstrip("\n") + "\n" for part in parts)])


def literal(text: str) -> str:
    """Return a text as code; nothing stays nothing."""
    return f"`{text}`" if text else ""


def doc(thing: object) -> str:
    """Return a docstring without its indentation."""
    return inspect.cleandoc(inspect.getdoc(thing) or "")


def fields(schema: Mapping[str, Any]) -> str:
    """Return the table of an object's fields."""
    required = set(schema.get("required", ()))
    rows = [
        (literal(name), type_of(field), "yes" if name in required else "no", field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    return table(("Field", "Type", "Required", "Meaning"), rows)


def type_of(schema: Mapping[str, Any]) -> str:
    """Return a JSON Schema of one field in words."""
    if "$ref" in schema:
        return literal(schema["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(literal(str(value)) for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") in {"array", "object"}:
        return _container(schema)
    limits = [f"{word} {literal(str(schema[key]))}" for key, word in _LIMITS.items() if key in schema]
    return " ".join([str(schema.get("format", schema.get("type", "any JSON"))), *limits])


def _container(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "object":
        values = schema.get("additionalProperties")
        return f"map to {type_of(values)}" if isinstance(values, dict) else "map to any JSON"
    if "prefixItems" in schema:
        return f"[{', '.join(type_of(one) for one in schema['prefixItems'])}]"
    return f"list of {type_of(schema.get('items', {}))}"


_LIMITS: Final = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "pattern": "matching",
}
