"""From a verified request to its events: ids, types and entities read where the manifest says.

Must never decide business meaning, nor trust the request before a verifier did.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any
from urllib.parse import parse_qsl

from contracts.errors import Invalid
from providers.manifest import Choice, Source, Webhook
from providers.reading import at, parse_json
from providers.sdk import InboundRequest, WebhookItem

FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class _Item:
    """One event's raw bytes with everything that a source can read."""

    request: InboundRequest
    document: Any
    form: Mapping[str, str]
    data: bytes


Reader = Callable[[_Item], str | None]


class Splitter:
    """The reading part of one `[webhook]` table, compiled for one set of options."""

    def __init__(self, webhook: Webhook, options: Mapping[str, str]) -> None:
        self._webhook = webhook
        self._event_id = [_reader(choice, options, ":") for choice in webhook.event_id]
        self._event_type = [_reader(choice, options, ".") for choice in webhook.event_type]
        self._entities = [
            (
                re.compile("|".join(translate(glob) for glob in rule.match)).match,
                rule.kind,
                [_reader(source, options, ":") for source in rule.id],
            )
            for rule in webhook.entities
        ]

    def split(self, request: InboundRequest) -> list[WebhookItem]:
        """Return the events of one delivery, in order; raises `Invalid` (`undecodable_body`) that names the place.

        An empty array is a delivery without events.
        """
        return [self._event(item) for item in self._items(request)]

    def _items(self, request: InboundRequest) -> list[_Item]:
        if "form" in self._webhook.formats and _is_form(request):
            return [_Item(request, None, _form(request.body), request.body)]
        document = parse_json(request.body)
        if self._webhook.items == "single":
            return [_Item(request, document, {}, request.body)]
        pointer = self._webhook.items_pointer
        array = at(document, pointer)
        if not isinstance(array, list):
            raise Invalid("undecodable_body", f"{pointer or 'the body'} is no array", field=pointer or "/")
        return [
            _Item(request, item, {}, json.dumps(item, separators=(",", ":"), ensure_ascii=False).encode())
            for item in array
        ]

    def _event(self, item: _Item) -> WebhookItem:
        event_id = _first(self._event_id, item)
        event_type = _first(self._event_type, item)
        if event_id is None:
            raise _absent("event id", self._webhook.event_id)
        if event_type is None:
            raise _absent("event type", self._webhook.event_type)
        return WebhookItem(event_id, event_type, self._entity(event_type, item), item.data)

    def _entity(self, event_type: str, item: _Item) -> tuple[str, str] | None:
        for matches, kind, readers in self._entities:
            if matches(event_type):
                found = _first(readers, item)
                return None if found is None else (kind, found)
        return None


def _first(readers: list[Reader], item: _Item) -> str | None:
    return next((value for reader in readers if (value := reader(item))), None)


def _absent(what: str, choices: tuple[Choice, ...]) -> Invalid:
    first = choices[0] if isinstance(choices[0], str) else choices[0][0]
    return Invalid("undecodable_body", f"no {what} at {first}", field=first.removeprefix("body:"))


def _reader(choice: Choice, options: Mapping[str, str], glue: str) -> Reader:
    if isinstance(choice, str):
        return _source(choice, options)
    parts = [_source(source, options) for source in choice]

    def composite(item: _Item) -> str | None:
        values = [part(item) for part in parts]
        return None if None in values else glue.join(value for value in values if value is not None)

    return composite


def _source(source: Source, options: Mapping[str, str]) -> Reader:
    kind, _, place = re.sub(r"\{(\w+)\}", lambda match: options[match[1]], source).partition(":")
    if kind == "body":
        return lambda item: _scalar(at(item.document, place))
    if kind == "header":
        return lambda item: item.request.header(place) or None
    if kind == "form":
        return lambda item: item.form.get(place) or None
    if kind == "const":
        return lambda _: place
    return lambda item: hashlib.sha256(item.data).hexdigest()


def _scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _is_form(request: InboundRequest) -> bool:
    return (request.header("content-type") or "").partition(";")[0].strip().lower() == FORM_TYPE


def _form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise Invalid("undecodable_body", "the body is no form", field="/") from None
