"""Deliveries made from fixtures: which there are, and single values changed by JSON pointer.

A form counts as an object of its fields, a field that holds JSON as what it holds. Must never know a vendor, nor change
a byte that it was not asked to change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from contracts.errors import Invalid
from providers.conformance import fixtures_for
from providers.fixtures import Fixture
from providers.provider import Provider

FORM_TYPE: Final = "application/x-www-form-urlencoded"


def fixture_of(provider: Provider, name: str) -> Fixture:
    """Return a fixture by name; raises `Invalid` (`unknown_fixture`) that lists those that exist."""
    known = {fixture.name: fixture for fixture in provider.fixtures()}
    if name not in known:
        detail = f"{provider.slug} has no fixture {name[:64]}; there are: {', '.join(known)}"
        raise Invalid("unknown_fixture", detail, field="fixture")
    return known[name]


def first_fixture(provider: Provider, options: Mapping[str, str]) -> Fixture:
    """Return the fixture that fits an endpoint's options best."""
    return (fixtures_for(provider, options) or provider.fixtures())[0]


def changed(fixture: Fixture, changes: Mapping[str, Any], form_json: str = "") -> Fixture:
    """Return a delivery with other values at the given JSON pointers; the same one when there are none.

    The last step of a pointer may be new, the way to it must exist. Raises `Invalid` (`bad_change`).
    """
    if not changes:
        return fixture
    document = document_of(fixture, form_json)
    for pointer, value in changes.items():
        put(document, pointer, value)
    return with_document(fixture, document, form_json)


def is_form(fixture: Fixture) -> bool:
    """Tell whether the delivery is a form."""
    return fixture.content_type.partition(";")[0].strip() == FORM_TYPE


def document_of(fixture: Fixture, form_json: str = "") -> Any:
    """Return the body as a document; raises `Invalid` (`bad_change`) for one that is neither JSON nor a form."""
    try:
        if not is_form(fixture):
            return json.loads(fixture.body)
        fields: dict[str, Any] = dict(parse_qsl(fixture.body.decode(), keep_blank_values=True))
        if form_json in fields:
            fields[form_json] = json.loads(fields[form_json])
    except ValueError:
        raise Invalid("bad_change", "only a JSON or form body can be changed", field="changes") from None
    return fields


def with_document(fixture: Fixture, document: Any, form_json: str = "") -> Fixture:
    """Return the delivery with this document for its body."""
    if not is_form(fixture):
        return replace(fixture, body=_compact(document).encode())
    if form_json in document:
        document = {**document, form_json: _compact(document[form_json])}
    return replace(fixture, body=urlencode(document).encode())


def put(document: Any, pointer: str, value: Any) -> None:
    """Write a value at a JSON pointer; raises `Invalid` (`bad_change`) when the way to it does not exist."""
    *way, last = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]] or [""]
    target = document
    for step in way:
        target = _inside(target, step, pointer)
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list) and last.isdigit() and int(last) < len(target):
        target[int(last)] = value
    else:
        raise _no_way(pointer)


def _inside(target: Any, step: str, pointer: str) -> Any:
    if isinstance(target, dict) and step in target:
        return target[step]
    if isinstance(target, list) and step.isdigit() and int(step) < len(target):
        return target[int(step)]
    raise _no_way(pointer)


def _no_way(pointer: str) -> Invalid:
    return Invalid("bad_change", f"{pointer[:100]} does not exist in the body", field="changes")


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)
