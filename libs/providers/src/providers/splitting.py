"""From a verified request to its events: ids, types and entities read where the manifest says.

Must never decide business meaning, nor trust the request before a verifier did.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import translate
from typing import Final

from contracts.errors import Invalid
from providers.manifest import Choice, Webhook
from providers.sdk import InboundRequest, WebhookItem
from providers.sources import Reader, Reading, reader

# Event types whose entity rule is remembered: vendors have some dozens, a hostile sender as many as he likes.
MAX_TYPES: Final = 1024


class Splitter:
    """The reading part of one `[webhook]` table, compiled for one set of options."""

    def __init__(self, webhook: Webhook, options: Mapping[str, str]) -> None:
        self._webhook = webhook
        self._event_id = [_choice(choice, options, ":") for choice in webhook.event_id]
        self._event_type = [_choice(choice, options, ".") for choice in webhook.event_type]
        self._account = [_choice(choice, options, ":") for choice in webhook.account]
        self._api_version = [_choice(choice, options, ".") for choice in webhook.api_version]
        self._entities = [
            (
                re.compile("|".join(translate(glob) for glob in rule.match)).match,
                rule.kind,
                [reader(source, options) for source in rule.id],
            )
            for rule in webhook.entities
        ]
        self._rules: dict[str, tuple[str, list[Reader]] | None] = {}

    def split(self, request: InboundRequest) -> list[WebhookItem]:
        """Return the events of one delivery, in order; raises `Invalid` (`undecodable_body`) that names the place.

        An empty array is a delivery without events.
        """
        webhook = self._webhook
        reading = Reading(request, webhook.formats, webhook.form_json)
        # A form has no arrays: it is one event whatever `items` says of JSON.
        if webhook.items == "single" or reading.root is None:
            _ = reading.item
            return [self._event(reading)]
        if webhook.items == "auto":
            try:
                return [self._event(one) for one in reading.items(webhook.pointers)]
            except Invalid:
                if isinstance(reading.root, list):
                    raise
                return [self._event(reading)]
        only_lists = "xml" not in webhook.formats
        return [self._event(one) for one in reading.items(webhook.pointers, lists_only=only_lists)]

    def _event(self, item: Reading) -> WebhookItem:
        event_id = _first(self._event_id, item)
        event_type = _first(self._event_type, item)
        if event_id is None:
            raise _absent("event id", self._webhook.event_id)
        if event_type is None:
            raise _absent("event type", self._webhook.event_type)
        return WebhookItem(
            event_id,
            event_type,
            self._entity(event_type, item),
            item.data,
            (_first(self._account, item) or "") if self._account else "",
            (_first(self._api_version, item) or "") if self._api_version else "",
            item.path,
        )

    def _entity(self, event_type: str, item: Reading) -> tuple[str, str] | None:
        if event_type not in self._rules:
            if len(self._rules) >= MAX_TYPES:
                self._rules.clear()
            found_rules = ((kind, readers) for matches, kind, readers in self._entities if matches(event_type))
            self._rules[event_type] = next(found_rules, None)
        rule = self._rules[event_type]
        if rule is None:
            return None
        found = _first(rule[1], item)
        return None if found is None else (rule[0], found)


def _first(readers: list[Reader], item: Reading) -> str | None:
    for read in readers:
        value = read(item)
        if value:
            return value
    return None


def _absent(what: str, choices: tuple[Choice, ...]) -> Invalid:
    first = choices[0] if isinstance(choices[0], str) else choices[0][0]
    return Invalid("undecodable_body", f"no {what} at {first}", field=first.removeprefix("body:"))


def _choice(choice: Choice, options: Mapping[str, str], glue: str) -> Reader:
    if isinstance(choice, str):
        return reader(choice, options)
    parts = [reader(source, options) for source in choice]

    def composite(item: Reading) -> str | None:
        values = [part(item) for part in parts]
        return None if None in values else glue.join(value for value in values if value is not None)

    return composite
