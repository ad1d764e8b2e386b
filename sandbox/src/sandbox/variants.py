"""Deliveries made from fixtures: single values changed by JSON pointer, and ids made fresh without knowing the vendor.

A form counts as an object of its fields. Must never change a byte that it was not asked to change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from contracts.errors import Invalid
from providers.fixtures import EXAMPLE_URL, Fixture
from providers.provider import Provider
from providers.sdk import PaymentSnapshot, WebhookItem

FORM_TYPE: Final = "application/x-www-form-urlencoded"


def fixture_of(provider: Provider, name: str) -> Fixture:
    """Return a fixture by name; raises `Invalid` (`unknown_fixture`) that lists those that exist."""
    known = {fixture.name: fixture for fixture in provider.fixtures()}
    if name not in known:
        detail = f"{provider.slug} has no fixture {name[:64]}; there are: {', '.join(known)}"
        raise Invalid("unknown_fixture", detail, field="fixture")
    return known[name]


def changed(body: bytes, content_type: str, changes: Mapping[str, Any]) -> bytes:
    """Return a body with other values at the given JSON pointers; the same bytes when there are none.

    The last step of a pointer may be new, the way to it must exist. Raises `Invalid` (`bad_change`).
    """
    if not changes:
        return body
    document = _document(body, content_type)
    for pointer, value in changes.items():
        _put(document, pointer, value)
    if content_type == FORM_TYPE:
        return urlencode(document).encode()
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def items_of(provider: Provider, fixture: Fixture) -> list[WebhookItem]:
    """Return the events of a fixture as the gateway would read them."""
    verifier = provider.verifier()
    headers = verifier.sign(
        fixture.body,
        url=EXAMPLE_URL,
        secret=verifier.generate().signing,
        now=datetime.now(UTC),
        content_type=fixture.content_type,
        message_id=fixture.message_id,
    )
    return provider.split(fixture.request(headers))


def snapshots_of(provider: Provider, fixture: Fixture) -> list[PaymentSnapshot]:
    """Return what a fixture says about payments."""
    return [
        snapshot for item in items_of(provider, fixture) for snapshot in provider.normalise(item.event_type, item.data)
    ]


def fresh_ids(provider: Provider, fixture: Fixture, suffix: str) -> dict[str, str]:
    """Return the changes that give a fixture's events and entities new ids, equal for equal suffixes.

    Every text that equals an event's or entity's id gets the suffix; an id that is a number or a digest stays.
    """
    ids: set[str] = set()
    for item in items_of(provider, fixture):
        ids.add(item.event_id)
        if item.entity is not None:
            ids.add(item.entity[1])
    document = _document(fixture.body, fixture.content_type)
    return {pointer: value + suffix for pointer, value in _texts(document, "") if value in ids}


def _document(body: bytes, content_type: str) -> Any:
    if content_type == FORM_TYPE:
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    try:
        return json.loads(body)
    except ValueError:
        raise Invalid("bad_change", "only a JSON or form body can be changed", field="changes") from None


def _texts(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{pointer}/{index}")


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
