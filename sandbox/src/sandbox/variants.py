"""Deliveries made from fixtures: values changed by JSON pointer, ids made fresh, events put together into a batch.

A form counts as an object of its fields, a field that holds JSON as what it holds. Must never know a vendor, nor change
a byte that it was not asked to change.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from contracts.errors import Invalid
from providers.conformance import fixtures_for
from providers.fixtures import Fixture
from providers.manifest import Choice
from providers.provider import Provider
from providers.sdk import PaymentSnapshot, Verifier, WebhookItem
from providers.sources import Reading, reader

FORM_TYPE: Final = "application/x-www-form-urlencoded"
# A shorter number may well be a counter or an amount that only looks like the id.
_MIN_DIGITS: Final = 5


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
    document = _document(fixture, form_json)
    for pointer, value in changes.items():
        _put(document, pointer, value)
    return replace(fixture, body=_written(document, fixture, form_json))


def items_of(provider: Provider, fixture: Fixture, options: Mapping[str, str] | None = None) -> list[WebhookItem]:
    """Return the events of a fixture as the gateway would read them."""
    given = {**fixture.options, **(options or {})}
    request = provider.sign(
        fixture.request({}),
        secret=_any_secret(provider.verifier(given)),
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


def freshened(
    provider: Provider, fixture: Fixture, suffix: str, options: Mapping[str, str] | None = None
) -> Fixture:
    """Return the delivery with new ids of its events and entities, equal for equal suffixes; unchanged without one.

    Whatever equals one of those ids is renamed, in body, headers and query: text gets the suffix, a number digits that
    follow from it. The id that a scheme signs gets the suffix too.
    """
    if not suffix:
        return fixture
    ids = _ids(provider, fixture, options)
    query = [(name, _renamed(text, suffix) if text in ids else text) for name, text in _pairs(fixture.query)]
    return replace(
        fixture,
        body=_with_fresh_ids(fixture, ids, suffix, provider.webhook.form_json),
        headers={name: _renamed(text, suffix) if text in ids else text for name, text in fixture.headers.items()},
        query=urlencode(query),
        message_id=fixture.message_id + suffix,
    )


def batched(
    provider: Provider, fixture: Fixture, count: int, options: Mapping[str, str] | None = None
) -> Fixture:
    """Return the delivery with `count` events, those that it lacks made from its own with ids of theirs.

    Raises `Invalid` (`no_batches`) for a vendor that sends one event at a time, or in a body that is no JSON.
    """
    webhook = provider.webhook
    if count <= 1:
        return fixture
    refusal = Invalid("no_batches", f"{provider.slug} sends {fixture.name} by itself", field="events")
    if webhook.items == "single":
        raise refusal
    try:
        document = json.loads(fixture.body)
    except ValueError:
        raise refusal from None
    if webhook.items == "auto" and isinstance(document, dict) and webhook.pointers == ("",):
        document = [document]
    arrays = [found for pointer in webhook.pointers for found in _arrays(document, pointer.split("/")[1:]) if found]
    if not arrays:
        raise refusal
    ids, events = _ids(provider, fixture, options), arrays[0]
    missing = count - sum(len(array) for array in arrays)
    originals = deepcopy(events)
    for number in range(missing):
        copy = deepcopy(originals[number % len(originals)])
        _rename(copy, ids, f"-{number + 2}")
        events.append(copy)
    return replace(fixture, body=_compact(document))


def _ids(provider: Provider, fixture: Fixture, options: Mapping[str, str] | None) -> set[str]:
    items = items_of(provider, fixture, options)
    found = {item.event_id for item in items} | {item.entity[1] for item in items if item.entity is not None}
    resolved = provider.manifest.resolve_options({**fixture.options, **(options or {})})
    reading = Reading(fixture.request({}), provider.webhook.formats, provider.webhook.form_json)
    for source in _sources(provider.webhook.event_id):
        if source.startswith(("header:", "query:", "form:")):
            found.add(reader(source, resolved)(reading) or "")
    return found - {item.event_type for item in items} - {""}


def _sources(choices: Collection[Choice]) -> Iterator[str]:
    for choice in choices:
        yield from (choice,) if isinstance(choice, str) else choice


def _with_fresh_ids(fixture: Fixture, ids: Collection[str], suffix: str, form_json: str) -> bytes:
    if fixture.content_type.partition(";")[0].endswith("xml"):
        text = fixture.body.decode()
        for one in ids:
            text = text.replace(f">{one}<", f">{_renamed(one, suffix)}<")
        return text.encode()
    try:
        document = _document(fixture, form_json)
    except Invalid:
        return fixture.body
    before = deepcopy(document)
    _rename(document, ids, suffix)
    return fixture.body if document == before else _written(document, fixture, form_json)


def _rename(node: Any, ids: Collection[str], suffix: str) -> None:
    """Rename the ids among the values of a document, and among its keys, which some vendors use for them."""
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, value in pairs:
        if isinstance(value, dict | list):
            _rename(value, ids, suffix)
        elif isinstance(value, str) and value in ids and not (value.isdigit() and len(value) < _MIN_DIGITS):
            node[key] = _renamed(value, suffix)
        elif type(value) is int and str(value) in ids and len(str(value)) >= _MIN_DIGITS:
            node[key] = int(_renamed(str(value), suffix))


def _renamed(text: str, suffix: str) -> str:
    # A number stays a number.
    return f"{text}{1000 + zlib.crc32(suffix.encode()) % 9000}" if text.isdigit() else text + suffix


def _arrays(node: Any, steps: list[str]) -> Iterator[list[Any]]:
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
def _any_secret(verifier: Verifier) -> str:
    """Return some key of a scheme: an RSA key takes a tenth of a second, so each verifier gets one."""
    return verifier.generate().signing


def _pairs(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True)


def _document(fixture: Fixture, form_json: str) -> Any:
    try:
        if fixture.content_type.partition(";")[0] != FORM_TYPE:
            return json.loads(fixture.body)
        fields: dict[str, Any] = dict(_pairs(fixture.body.decode()))
        if form_json in fields:
            fields[form_json] = json.loads(fields[form_json])
    except ValueError:
        raise Invalid("bad_change", "only a JSON or form body can be changed", field="changes") from None
    return fields


def _written(document: Any, fixture: Fixture, form_json: str) -> bytes:
    if fixture.content_type.partition(";")[0] != FORM_TYPE:
        return _compact(document)
    if form_json in document:
        document = {**document, form_json: _compact(document[form_json]).decode()}
    return urlencode(document).encode()


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _put(document: Any, pointer: str, value: Any) -> None:
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
