"""Texts with `{name}` in them, filled from an operation's arguments: how `operations.toml` says what a request holds.

`{name}` is an argument, `{item.name}` a part of the current line of an `each`, `{option.name}` an option of the
connection; `account_ref`, `effect_key`, `key` (the effect key as this operation's idempotency key) and `now` are there
too. A `?` behind the name makes it optional: what it stands in is left out when it is absent. `|filter` or
`|filter:word` changes the value, from left to right. A text that is nothing but one `{…}` keeps the value's type.

Must never evaluate anything but names and the filters below.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from contracts.errors import Invalid
from providers.money import exponent
from providers.reading import fitting_key

ABSENT: Final = object()
_EXPRESSION: Final = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)(\?)?((?:\|[a-z0-9_]+(?::[^|{}]*)?)*)\}")
_WHOLE_HOST: Final = re.compile(r"https?://\{[^{}]+\}(?::[0-9]+)?(?:[/?#]|$)")
# In a table of `map`: what stands for every value that it does not name, and the value's place in it.
_ANY_OTHER: Final = "*"
_KEY_SPACE: Final = uuid.UUID("6f1c2f2e-8d1f-5c38-9c55-8d6d2f1a7c10")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a template may name; `values` holds arguments and built-in names, `maps` the tables of `map:<name>`."""

    values: Mapping[str, Any] = field(repr=False)
    maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def with_item(self, item: Any) -> Scope:
        """Return the scope inside of an `each`."""
        return Scope({**self.values, "item": item}, self.maps)

    def look(self, name: str) -> Any:
        """Return what a dotted name stands for, or `ABSENT`."""
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part, ABSENT) if isinstance(value, Mapping) else ABSENT
            if value is ABSENT:
                return ABSENT
        return ABSENT if value is None or value == "" else value


@dataclass(frozen=True, slots=True)
class _Expression:
    name: str
    optional: bool
    filters: tuple[tuple[str, str], ...]


def names_in(template: Any) -> set[str]:
    """Return the names that a template uses, those of each `each` included."""
    if isinstance(template, str):
        named = [one for one in _parse(template) if isinstance(one, _Expression)]
        found = {one.name for one in named} | {word for one in named for name, word in one.filters if name == "or"}
        return found | {_source(template)} if _is_reference(template) else found
    if isinstance(template, Mapping):
        if "each" in template:
            return {str(template["each"])} | names_in(template["item"])
        return set().union(*(names_in(value) for value in template.values())) if template else set()
    if isinstance(template, list | tuple):
        return set().union(*(names_in(value) for value in template)) if template else set()
    return set()


def names_whole_host(address: str) -> bool:
    """Tell whether a template of an address leaves its whole host to a name, so that it may stand anywhere."""
    return _WHOLE_HOST.match(address) is not None


def render(template: Any, scope: Scope, *, path: bool = False) -> Any:
    """Return the template with names replaced, or `ABSENT` for one that hangs on an absent optional name.

    With `path` every value is percent-encoded whole. Raises `Invalid` (`missing_argument`) for a name that is absent
    though it is not optional, and (`bad_template`) for a filter that does not fit.
    """
    if isinstance(template, str):
        return _render_text(template, scope, path=path)
    if isinstance(template, Mapping):
        if "each" in template:
            items = scope.look(str(template["each"]))
            if items is ABSENT:
                return ABSENT
            if isinstance(items, str):
                items = _pieces(items, int(template["pieces"]))
            return [value for one in items if (value := render(template["item"], scope.with_item(one))) is not ABSENT]
        parts = {name: value for name, part in template.items() if (value := render(part, scope)) is not ABSENT}
        return ABSENT if template and not parts else parts
    if isinstance(template, list | tuple):
        return [value for part in template if (value := render(part, scope)) is not ABSENT]
    return template


def _render_text(template: str, scope: Scope, *, path: bool) -> Any:
    parts = _parse(template)
    if len(parts) == 1 and isinstance(parts[0], _Expression) and not path:
        value = _value(parts[0], scope)
        return _text(value) if isinstance(value, date) else value
    out: list[str] = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
            continue
        value = _value(part, scope)
        if value is ABSENT:
            return ABSENT
        out.append(_in_path(part, _text(value)) if path else _text(value))
    return "".join(out)


def _in_path(part: _Expression, text: str) -> str:
    """Return a value as a part of a path, percent-encoded; `raw` keeps its slashes."""
    if {".", ".."} & set(text.split("/")):
        raise Invalid("bad_argument", f"{part.name} cannot be part of a path", field=part.name)
    return quote(text, safe="/" if ("raw", "") in part.filters else "")


def _pieces(text: str, length: int) -> list[str]:
    """Return a text in pieces of at most `length` characters, for vendors that limit one part but not their number."""
    return [text[start : start + length] for start in range(0, len(text), length)]


def _value(expression: _Expression, scope: Scope) -> Any:
    value = scope.look(expression.name)
    if value is ABSENT:
        value = _instead(expression, scope)
    if value is ABSENT:
        fallback = next((word for name, word in expression.filters if name == "default"), None)
        if fallback is not None:
            return fallback
        if expression.optional:
            return ABSENT
        raise Invalid("missing_argument", f"{expression.name} is needed here", field=expression.name)
    for name, word in expression.filters:
        value = _FILTERS[name](value, word, scope)
    return value


def _instead(expression: _Expression, scope: Scope) -> Any:
    """Return what the first name behind `or` stands for that is there."""
    others = (scope.look(word) for name, word in expression.filters if name == "or")
    return next((value for value in others if value is not ABSENT), ABSENT)


@lru_cache(maxsize=4096)
def _parse(template: str) -> tuple[str | _Expression, ...]:
    parts: list[str | _Expression] = []
    place = 0
    for found in _EXPRESSION.finditer(template):
        if found.start() > place:
            parts.append(template[place : found.start()])
        parts.append(_Expression(found[1], bool(found[2]), _filters(found[3])))
        place = found.end()
    if place < len(template) or not parts:
        parts.append(template[place:])
    return tuple(parts)


def _filters(text: str) -> tuple[tuple[str, str], ...]:
    found = tuple((name, word) for name, _, word in (part.partition(":") for part in text.split("|")[1:]))
    for name, _ in found:
        if name not in _FILTERS:
            raise Invalid("bad_template", f"there is no filter {name}", field=name)
    return found


def _is_reference(template: str) -> bool:
    return False if "{" not in template else len(_parse(template)) == 1


def _source(template: str) -> str:
    part = _parse(template)[0]
    return part.name if isinstance(part, _Expression) else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _decimal(value: Any, _word: str, scope: Scope) -> str:
    return str(Decimal(int(value)).scaleb(-exponent(str(scope.look("currency")))))


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise Invalid("bad_template", "the filter takes an instant")
    return value


def _local(value: Any, word: str, scope: Scope) -> str:
    zone = word or scope.look("zone")
    place = ZoneInfo(str(zone)) if zone is not ABSENT else UTC
    return _moment(value).astimezone(place).strftime("%Y-%m-%dT%H:%M:%S")


def _mapped(value: Any, word: str, scope: Scope) -> Any:
    table = scope.maps.get(word, {})
    if str(value) in table:
        return table[str(value)]
    if _ANY_OTHER not in table:
        raise Invalid("bad_argument", f"there is no word for this value in the table {word}")
    return str(table[_ANY_OTHER]).replace(_ANY_OTHER, _text(value))


def _ical(value: Any, _word: str, _scope: Scope) -> str:
    """Escape a text of iCalendar (RFC 5545 §3.3.11); other control characters must not stand in one."""
    text = _text(value).replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")
    return "".join(one for one in text if one >= " " and one != "\x7f")


def _minutes(value: Any, word: str, scope: Scope) -> int:
    """Return the minutes from this instant until the one named."""
    until = scope.look(word or "end")
    return int((_moment(until) - _moment(value)).total_seconds() // 60)


_FILTERS: Final[dict[str, Callable[[Any, str, Scope], Any]]] = {
    "decimal": _decimal,
    "number": lambda value, word, scope: float(_decimal(value, word, scope)),
    "int": lambda value, _word, _scope: int(value),
    "str": lambda value, _word, _scope: _text(value),
    "lower": lambda value, _word, _scope: _text(value).lower(),
    "upper": lambda value, _word, _scope: _text(value).upper(),
    "cut": lambda value, word, _scope: _text(value)[: int(word)],
    "negate": lambda value, _word, _scope: -value,
    "absolute": lambda value, _word, _scope: abs(value),
    "times": lambda value, word, scope: int(value) * int(scope.look(word)),
    "direction": lambda value, word, _scope: word.split(",")[0 if value >= 0 else 1],
    "unix": lambda value, _word, _scope: int(_moment(value).timestamp()),
    "unix_ms": lambda value, _word, _scope: int(_moment(value).timestamp() * 1000),
    "unix_us": lambda value, _word, _scope: int(_moment(value).timestamp() * 1_000_000),
    "date": lambda value, _word, _scope: _text(value)[:10],
    "compact": lambda value, _word, _scope: _moment(value).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ"),
    "local": _local,
    "minutes": _minutes,
    "key": lambda value, word, _scope: fitting_key(_text(value), int(word)),
    "uuid": lambda value, _word, _scope: str(uuid.uuid5(_KEY_SPACE, _text(value))),
    "uuid4": lambda value, _word, _scope: str(uuid.UUID(bytes=uuid.uuid5(_KEY_SPACE, _text(value)).bytes, version=4)),
    "base64": lambda value, _word, _scope: base64.b64encode(_text(value).encode()).decode(),
    "base64url": lambda value, _word, _scope: base64.urlsafe_b64encode(_text(value).encode()).decode().rstrip("="),
    "plain": lambda value, _word, _scope: base64.b64decode(value).decode("utf-8", "replace"),
    "bytes": lambda value, _word, _scope: base64.b64decode(value),
    # In a text, unlike in an attribute, quotation marks stay.
    "xml": lambda value, word, _scope: escape(_text(value), {} if word == "text" else {'"': "&quot;"}),
    "json": lambda value, _word, _scope: json.dumps(value if isinstance(value, str) else _text(value)),
    "quoted": lambda value, _word, _scope: _text(value).replace("\\", "\\\\").replace("'", "\\'"),
    "ical": _ical,
    "map": _mapped,
    "or": lambda value, _word, _scope: value,
    "default": lambda value, _word, _scope: value,
    "raw": lambda value, _word, _scope: value,
}
