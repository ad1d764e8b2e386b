"""Deliveries made from fixtures: ids of events and entities made fresh, events put together into a batch.

What an id is follows from the manifest alone. Must never know a vendor.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from contracts.errors import Invalid
from providers.fixtures import Fixture
from providers.manifest import Choice
from providers.provider import Provider
from providers.reading import at, parse_json
from providers.sdk import PaymentSnapshot, WebhookItem
from providers.sources import Reading, reader, scalar
from sandbox.variants import document_of, put, with_document

# A shorter number may well be a counter or an amount that only looks like the id.
_MIN_DIGITS: Final = 5
# Of an id that has several parts only this one is renamed: the others are types, times and accounts.
_ID_LIKE: Final = re.compile(r"(id|reference|number)$", re.IGNORECASE)


@dataclass(slots=True)
class _Ids:
    """What stands for an event or its entity: values, and places (JSON pointers, `header:X`, `query:x`)."""

    texts: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)


def items_of(provider: Provider, fixture: Fixture, options: Mapping[str, str] | None = None) -> list[WebhookItem]:
    """Return the events of a fixture as the gateway would read them."""
    given = {**fixture.options, **(options or {})}
    request = provider.sign(
        fixture.request({}),
        secret=_any_secret(provider, frozenset(given.items())),
        now=datetime.now(UTC),
        message_id=fixture.message_id,
        options=given,
    )
    return provider.split(request, given)


def snapshots_of(provider: Provider, fixture: Fixture) -> list[PaymentSnapshot]:
    """Return what a fixture says about payments."""
    return [
        snapshot for item in items_of(provider, fixture) for snapshot in provider.normalise(item.event_type, item.data)
    ]


def freshened(provider: Provider, fixture: Fixture, suffix: str, options: Mapping[str, str] | None = None) -> Fixture:
    """Return the delivery with new ids of its events and entities, equal for equal suffixes; as it is without one.

    Text gets the suffix, a number digits that follow from it, in body, headers and query; whatever else equals the id
    is renamed along. The id that a scheme signs gets the suffix too. An event whose manifest names no id keeps the
    digest of its body, unless something in it looks like one.
    """
    if not suffix:
        return fixture
    items = items_of(provider, fixture, options)
    ids = _ids(provider, fixture, items, options)
    pairs = parse_qsl(fixture.query, keep_blank_values=True)
    headers = fixture.headers.items()
    made = replace(
        fixture,
        headers={name: _renamed(text, suffix) if _is_id(ids, "header", name, text) else text for name, text in headers},
        query=urlencode(
            [(name, _renamed(text, suffix) if _is_id(ids, "query", name, text) else text) for name, text in pairs]
        ),
        message_id=fixture.message_id + suffix,
    )
    return _with_fresh_body(provider, made, ids, suffix)


def batched(provider: Provider, fixture: Fixture, count: int, options: Mapping[str, str] | None = None) -> Fixture:
    """Return the delivery with `count` events, those that it lacks made from its own with ids of theirs.

    Raises `Invalid` (`no_batches`) for a vendor that sends one event at a time, or in a body that is no JSON.
    """
    webhook = provider.webhook
    if count <= 1:
        return fixture
    arrays: list[list[Any]] = []
    try:
        document = document_of(fixture) if webhook.items != "single" else None
    except Invalid:
        document = None
    if webhook.items == "auto" and isinstance(document, dict):
        document = [document]
    for pointer in webhook.pointers:
        arrays += [found for found in _arrays(document, pointer.split("/")[1:]) if found]
    if not arrays:
        raise Invalid("no_batches", f"{provider.slug} sends {fixture.name} by itself", field="events")
    known = sum(len(array) for array in arrays)
    start, originals = len(arrays[0]), deepcopy(arrays[0])
    arrays[0] += [deepcopy(originals[number % len(originals)]) for number in range(count - known)]
    made = with_document(fixture, document)
    items = items_of(provider, made, options)
    for number, item in enumerate(items[start : start + max(count - known, 0)], start=2):
        ids = _ids(provider, made, [item], options)
        _rename(document, ids, f"-{number}", item.path)
        if not ids.places:
            _rename_id_like(document, f"-{number}", item.path)
    return with_document(fixture, document)


def _is_id(ids: _Ids, kind: str, name: str, text: str) -> bool:
    return f"{kind}:{name}".lower() in ids.places or (text in ids.texts and not _is_short_number(text))


def _is_short_number(text: str) -> bool:
    return text.isdigit() and len(text) < _MIN_DIGITS


def _with_fresh_body(provider: Provider, fixture: Fixture, ids: _Ids, suffix: str) -> Fixture:
    form_json = provider.webhook.form_json
    if fixture.content_type.partition(";")[0].endswith("xml"):
        text = fixture.body.decode()
        for one in ids.texts:
            text = text.replace(f">{one}<", f">{_renamed(one, suffix)}<")
        return replace(fixture, body=text.encode())
    try:
        document = document_of(fixture, form_json)
    except Invalid:
        return fixture
    before = deepcopy(document)
    _rename(document, ids, suffix)
    if document == before and not ids.places:
        _rename_id_like(document, suffix)
    return fixture if document == before else with_document(fixture, document, form_json)


def _ids(provider: Provider, fixture: Fixture, items: Sequence[WebhookItem], options: Mapping[str, str] | None) -> _Ids:
    webhook = provider.webhook
    resolved = provider.manifest.resolve_options({**fixture.options, **(options or {})})
    request = Reading(fixture.request({}), webhook.formats, webhook.form_json)
    accounts = {source for choice in webhook.account for source in _parts(choice)}
    choices = [_parts(choice) for choice in webhook.event_id]
    choices += [(source,) for rule in webhook.entities for source in rule.id]
    found = _Ids()
    for item in items:
        wanted = {item.event_id, item.entity[1] if item.entity else ""} - {""}
        found.texts |= wanted
        for choice in choices:
            values = {source: _value(source, item, request, resolved) for source in choice}
            if ":".join(text or "" for text in values.values()) not in wanted:
                continue
            likely = [one for one in choice if one not in accounts and _ID_LIKE.search(_filled(one, resolved))]
            for source in choice if len(choice) == 1 else likely[-1:]:
                found.texts.add(values[source] or "")
                found.places.add(_place(_filled(source, resolved), item, webhook.form_json))
    found.texts -= {item.event_type for item in items} | {""}
    found.places.discard("")
    return found


def _parts(choice: Choice) -> tuple[str, ...]:
    return (choice,) if isinstance(choice, str) else tuple(choice)


def _filled(source: str, options: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: options[match[1]], source)


def _value(source: str, item: WebhookItem, request: Reading, options: Mapping[str, str]) -> str | None:
    if source.startswith("body:"):
        try:
            return scalar(at(parse_json(item.data), _filled(source, options).removeprefix("body:")))
        except Invalid:
            return None
    if source.startswith(("key:", "root:")) and ("*" in source or source.startswith("key:")):
        return None
    if source == "digest":
        return item.event_id.rpartition(":")[2]
    return reader(source, options)(request)


def _place(source: str, item: WebhookItem, form_json: str) -> str:
    kind, _, name = source.partition(":")
    if kind == "body":
        inside = item.path or (f"/{form_json}" if form_json else "")
        return inside + name
    if kind in {"header", "query"}:
        return source.lower()
    return f"/{name}" if kind == "form" else ""


def _rename(document: Any, ids: _Ids, suffix: str, below: str = "") -> None:
    """Rename the ids of a document, those at their places and all that equal them, as far as they are `below`."""
    for place in ids.places:
        value = at(document, place) if place.startswith("/") else None
        if place.startswith(below) and (isinstance(value, str) or type(value) is int):
            put(document, place, _like(value, suffix))
    for pointer, value in list(_leaves(at(document, below), below)):
        if str(value) in ids.texts and pointer not in ids.places and not _is_short_number(str(value)):
            put(document, pointer, _like(value, suffix))


def _rename_id_like(document: Any, suffix: str, below: str = "") -> None:
    for pointer, value in list(_leaves(at(document, below), below)):
        if _ID_LIKE.search(pointer) and isinstance(value, str):
            put(document, pointer, _like(value, suffix))


def _leaves(value: Any, pointer: str) -> Iterator[tuple[str, str | int]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{pointer}/{index}")
    elif isinstance(value, str) or type(value) is int:
        yield pointer, value


def _like(value: str | int, suffix: str) -> str | int:
    return _renamed(value, suffix) if isinstance(value, str) else int(_renamed(str(value), suffix))


def _renamed(text: str, suffix: str) -> str:
    # A number stays a number.
    return f"{text}{1000 + zlib.crc32(suffix.encode()) % 9000}" if text.isdigit() else text + suffix


def _arrays(node: Any, steps: Sequence[str]) -> Iterator[list[Any]]:
    if not steps:
        if isinstance(node, list):
            yield node
        return
    if steps[0] == "*":
        inner = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
    else:
        inner = [node[steps[0]]] if isinstance(node, dict) and steps[0] in node else []
    for one in inner:
        yield from _arrays(one, steps[1:])


@lru_cache(maxsize=256)
def _any_secret(provider: Provider, options: frozenset[tuple[str, str]]) -> str:
    """Return some key of a scheme: an RSA key takes a tenth of a second to make, so it is kept."""
    return provider.verifier(dict(options)).generate().signing
