"""Which lane an event takes: the endpoint's own rules first, then its lane, then the provider's manifest.

Must never let a type that the signature does not cover choose the critical lane (gateway.md §3.3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from fnmatch import translate
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from contracts.errors import Invalid
from contracts.events.sync import EndpointLaneRule
from contracts.topics import Lane
from providers.provider import Provider
from providers.reading import at, parse_json
from providers.sdk import WebhookItem

# Event types are few per provider; the bound only guards against a sender who invents them.
_TYPES_REMEMBERED = 1024


class Classifier:
    """The lane rules of one endpoint, compiled."""

    def __init__(self, provider: Provider, lane: Lane, rules: Sequence[EndpointLaneRule]) -> None:
        self._rules = [_Rule(rule) for rule in rules if rule.lane is not Lane.CRITICAL or _may_choose(provider, rule)]
        manifest_lane = lru_cache(_TYPES_REMEMBERED)(provider.webhook.lane_for)
        self._default: Callable[[str], Lane] = manifest_lane if lane is Lane.STANDARD else lambda _: lane
        self.may_be_critical = (
            lane is Lane.CRITICAL
            or any(rule.lane is Lane.CRITICAL for rule in self._rules)
            or (lane is Lane.STANDARD and Lane.CRITICAL in {provider.webhook.lane, *_lanes_of(provider)})
        )

    def lane(self, item: WebhookItem, now: datetime) -> Lane:
        """Return the lane of an event that arrives at `now`; reads the body only where a rule needs it."""
        if self._rules:
            document = _Document(item.data)
            for rule in self._rules:
                if rule.holds(item.event_type, document, now):
                    return rule.lane
        return self._default(item.event_type)


class _Document:
    """A body that is parsed at most once, and only when a rule asks."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parsed: Any = None
        self._done = False

    def at(self, pointer: str) -> Any:
        if not self._done:
            self._done = True
            try:
                self._parsed = parse_json(self._data)
            except Invalid:
                self._parsed = None
        return at(self._parsed, pointer)


class _Rule:
    """One rule with its globs compiled."""

    def __init__(self, rule: EndpointLaneRule) -> None:
        self.lane = rule.lane
        self._rule = rule
        self._matches = re.compile("|".join(translate(glob) for glob in rule.types)).match
        self._zone = ZoneInfo(rule.timezone)

    def holds(self, event_type: str, document: _Document, now: datetime) -> bool:
        rule = self._rule
        if self._matches(event_type) is None:
            return False
        if rule.min_amount is not None:
            amount = _number(document.at(rule.amount))
            if amount is None or amount < rule.min_amount:
                return False
        return not rule.due or _day(document.at(rule.due), self._zone) == now.astimezone(self._zone).date()


def _number(value: Any) -> float | None:
    """Return a JSON number, or a decimal in a string as many providers write amounts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _day(value: Any, zone: ZoneInfo) -> date | None:
    """Return the day of a date, an instant or a Unix time, as the calendar in `zone` shows it."""
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, zone).date()
        if not isinstance(value, str):
            return None
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        return None
    # Without an offset the provider means the place's own time, as calendars do.
    return moment.astimezone(zone).date() if moment.tzinfo else moment.date()


def _may_choose(provider: Provider, rule: EndpointLaneRule) -> bool:
    unsigned = {f"header:{name}".lower() for name in provider.webhook.unsigned}
    sources = [
        source.lower()
        for choice in provider.webhook.event_type
        for source in ([choice] if isinstance(choice, str) else choice)
    ]
    return rule.types == ("*",) or not unsigned & set(sources)


def _lanes_of(provider: Provider) -> set[Lane]:
    return {rule.lane for rule in provider.webhook.lanes}
