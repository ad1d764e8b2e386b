"""The other side of `feeds.toml`: logs of events that tell what the sandbox sent or lost, and registered webhooks.

A request is recognised by its template, and the values in it are read where the template has names. Must never know a
provider by name, nor forget an event that was lost on the way.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contracts.errors import Invalid
from providers.manifest.feeds import FeedSpec, SubscriptionAnswer, SubscriptionSpec
from providers.manifest.operations import RequestTemplate
from providers.provider import Provider
from providers.reading import at, parse_json
from providers.templates import names_in
from sandbox.behaviours.base import Answer, Call
from sandbox.world import World

_HOLE: Final = re.compile(r"\{([a-z][a-z0-9_.]*)\??(?:\|[^{}]*)?\}")
# A Unix time beyond this counts milliseconds.
_MOST_SECONDS: Final = 10**11
_LINKED_PAGE: Final = "next_page_token"
_NAMESPACE: Final = uuid.UUID("7f0f0a52-4a53-5e0c-8a6e-2b7f4f7f9f12")

Handler = Callable[[str, Call, Mapping[str, str]], Answer]


@dataclass(slots=True)
class Registered:
    """A webhook or watch that somebody registered."""

    ext_id: str
    url: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Route:
    template: RequestTemplate
    handler: Handler
    path: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", _pattern(self.template.path))

    def fits(self, call: Call) -> bool:
        """Tell whether a call is made of the template, words of the body included: GraphQL has one path for all."""
        if call.method != self.template.method or self.path.fullmatch(call.path) is None:
            return False
        wanted = self.template.json_body
        words = [one for one in wanted.items() if _is_word(one[1])] if isinstance(wanted, Mapping) else []
        if not words:
            return True
        try:
            body = call.json
        except Invalid:
            return False
        return isinstance(body, Mapping) and all(body.get(name) == text for name, text in words)


class FeedApi:
    """The feeds and subscriptions of one provider; registrations by account."""

    def __init__(self, provider: Provider, world: World) -> None:
        self._provider = provider
        self._world = world
        self.registered: dict[tuple[str, str], dict[str, Registered]] = {}
        self._routes = list(self._all())

    def knows(self, call: Call) -> bool:
        """Tell whether a call is one that `feeds.toml` declares."""
        return any(route.fits(call) for route in self._routes)

    def answer(self, account: str, call: Call) -> Answer:
        """Answer such a call; raises `Invalid` for a page or a subscription that the vendor does not know."""
        route = next(one for one in self._routes if one.fits(call))
        return route.handler(account, call, _values(route.template, route.path, call))

    def _all(self) -> Iterator[_Route]:
        for feed in self._provider.manifest.feeds:
            if feed.kind == "events":
                yield _Route(feed.request, self._log(feed))
            if feed.enable is not None:
                yield _Route(feed.enable, lambda _account, _call, _values: Answer(200, {}))
        for spec in self._provider.manifest.subscriptions:
            yield _Route(spec.create, self._create(spec))
            if spec.renew is not None:
                yield _Route(spec.renew, self._renew(spec))
            if spec.delete is not None:
                yield _Route(spec.delete, self._delete(spec))
            if spec.list is not None:
                yield _Route(spec.list.request, self._list(spec))

    # --- logs ---------------------------------------------------------------------------------------------------------

    def _log(self, feed: FeedSpec) -> Handler:
        def handle(_account: str, call: Call, values: Mapping[str, str]) -> Answer:
            events = [parse_json(one) for one in self._between(values)]
            start, size = self._start(feed, call, values, events), int(values.get("page_size") or feed.page_size)
            shown, more = events[start : start + size], len(events) > start + size
            body: dict[str, Any] = {}
            _put(body, feed.items, shown)
            if feed.paging.kind == "last_id":
                _put(body, feed.paging.more, more)
            elif feed.paging.kind == "cursor" and more:
                _put(body, feed.paging.next, f"{start + size}.{self._world.clock.now().timestamp():.0f}")
            elif feed.paging.kind == "links":
                _put(body, feed.paging.next, _links(self._provider, call, start + size if more else None))
            return Answer(200, body)

        return handle

    def _between(self, values: Mapping[str, str]) -> list[bytes]:
        """Return the bodies of a window, newest first as vendors list them; to the second, as they filter."""
        since, until = _instant(values["since"]), _instant(values.get("until", ""))
        own = [one for one in self._world.events if one.provider == self._provider.slug]
        return [
            one.body
            for one in reversed(own)
            if (since is None or one.at.replace(microsecond=0) >= since)
            and (until is None or one.at.replace(microsecond=0) <= until)
        ]

    def _start(self, feed: FeedSpec, call: Call, values: Mapping[str, str], events: list[Any]) -> int:
        page = values.get("page", "")
        if feed.paging.kind == "links":
            return int(call.query.get(_LINKED_PAGE, "0"))
        if not page:
            return 0
        if feed.paging.kind == "last_id":
            place = next((number for number, one in enumerate(events) if at(one, feed.paging.id) == page), None)
            if place is None:
                raise Invalid("unknown_page", "there is no such object to start after")
            return place + 1
        offset, _, issued = page.partition(".")
        age_s = self._world.clock.now().timestamp() - float(issued or 0)
        # Vendors forget a little later than the manifest stops using a cursor.
        if feed.paging.expires_s is not None and age_s > feed.paging.expires_s + 60:
            raise Invalid("unknown_page", "the cursor has expired")
        return int(offset)

    # --- subscriptions ------------------------------------------------------------------------------------------------

    def _mine(self, spec: SubscriptionSpec, account: str) -> dict[str, Registered]:
        return self.registered.setdefault((account, spec.name), {})

    def _create(self, spec: SubscriptionSpec) -> Handler:
        def handle(account: str, _call: Call, values: Mapping[str, str]) -> Answer:
            mine = self._mine(spec, account)
            made = values.get("id") or str(uuid.uuid5(_NAMESPACE, f"{account}:{spec.name}:{len(mine)}"))
            if made in mine:
                raise Invalid("not_unique", "there is such a subscription already")
            mine[made] = Registered(made, values.get("url", ""), self._end(spec, values))
            return Answer(201, _shown(spec.answer, mine[made]))

        return handle

    def _renew(self, spec: SubscriptionSpec) -> Handler:
        def handle(account: str, _call: Call, values: Mapping[str, str]) -> Answer:
            found = self._known(spec, account, values)
            found.expires_at = self._end(spec, values)
            return Answer(200, _shown(spec.answer, found))

        return handle

    def _delete(self, spec: SubscriptionSpec) -> Handler:
        def handle(account: str, _call: Call, values: Mapping[str, str]) -> Answer:
            self._mine(spec, account).pop(self._known(spec, account, values).ext_id)
            return Answer(204, None)

        return handle

    def _list(self, spec: SubscriptionSpec) -> Handler:
        def handle(account: str, _call: Call, _values: Mapping[str, str]) -> Answer:
            now, body = self._world.clock.now(), dict[str, Any]()
            alive = [one for one in self._mine(spec, account).values() if not one.expires_at or one.expires_at > now]
            if spec.list is not None:
                _put(body, spec.list.items, [_shown(spec.answer, one) for one in alive])
            return Answer(200, body)

        return handle

    def _known(self, spec: SubscriptionSpec, account: str, values: Mapping[str, str]) -> Registered:
        found = self._mine(spec, account).get(values.get("ext_id", ""))
        if found is None:
            raise Invalid("unknown_subscription", "there is no such subscription")
        return found

    def _end(self, spec: SubscriptionSpec, values: Mapping[str, str]) -> datetime | None:
        if spec.lifetime_s is None:
            return None
        longest = self._world.clock.now() + timedelta(seconds=spec.lifetime_s)
        asked = _instant(values.get("expires", ""))
        return min(asked, longest).replace(microsecond=0) if asked else longest.replace(microsecond=0)


def _is_word(text: Any) -> bool:
    return isinstance(text, str) and _HOLE.search(text) is None


def _shown(answer: SubscriptionAnswer, one: Registered) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for pointer, value in ((answer.id, one.ext_id), (answer.url, one.url), (answer.expires, _written(answer, one))):
        if pointer and value:
            _put(body, pointer, value)
    for name, pointer in answer.more.items():
        _put(body, pointer, f"{name}-{one.ext_id[:8]}")
    return body


def _written(answer: SubscriptionAnswer, one: Registered) -> Any:
    if one.expires_at is None:
        return None
    if answer.expires_format == "rfc3339":
        return one.expires_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    seconds = int(one.expires_at.timestamp())
    return str(seconds * 1000) if answer.expires_format == "unix_ms" else seconds


def _values(template: RequestTemplate, path: re.Pattern[str], call: Call) -> dict[str, str]:
    """Return what a call has in the places where its template has nothing but a name."""
    found = path.fullmatch(call.path)
    names = [hole[1] for hole in _HOLE.finditer(template.path)]
    values = dict(zip(names, found.groups() if found else (), strict=True))
    pairs = [(text, call.query.get(name)) for name, text in template.query.items()]
    pairs += [(text, call.form.get(name)) for name, text in (template.form or {}).items()]
    if template.json_body is not None:
        pairs += _leaves(template.json_body, json.loads(call.body or b"null"))
    for text, value in pairs:
        if isinstance(text, str) and _HOLE.fullmatch(text) and value is not None:
            values[next(iter(names_in(text)))] = str(value)
    return values


def _leaves(template: Any, value: Any) -> list[tuple[Any, Any]]:
    if isinstance(template, Mapping):
        inside = value if isinstance(value, Mapping) else {}
        return [pair for name, part in template.items() for pair in _leaves(part, inside.get(name))]
    return [(template, value)]


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    if text.isdecimal():
        number = int(text)
        return datetime.fromtimestamp(number / 1000 if number > _MOST_SECONDS else number, UTC)
    return datetime.fromisoformat(text)


def _links(provider: Provider, call: Call, following: int | None) -> list[dict[str, str]]:
    links = [{"rel": "self", "href": f"{provider.api.base_url}{call.path}"}]
    if following is not None:
        query = {**call.query, _LINKED_PAGE: str(following)}
        href = f"{provider.api.base_url}{call.path}?" + "&".join(f"{name}={text}" for name, text in query.items())
        links.append({"rel": "next", "href": href})
    return links


def _put(document: dict[str, Any], pointer: str, value: Any) -> None:
    *way, last = pointer.split("/")[1:]
    for step in way:
        document = document.setdefault(step, {})
    document[last] = value


def _pattern(path: str) -> re.Pattern[str]:
    out, place = "", 0
    for hole in _HOLE.finditer(path):
        out += re.escape(path[place : hole.start()]) + "([^/]+)"
        place = hole.end()
    return re.compile(out + re.escape(path[place:]))
