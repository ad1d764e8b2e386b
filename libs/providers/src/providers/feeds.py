"""Feeds and subscriptions of a provider: requests made of `feeds.toml`, answers read into deliveries and registrations.

Pure. Must never read an answer without its list as "there is nothing", nor follow a link to another host.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

from contracts.errors import Invalid
from providers.declared import render_request
from providers.manifest.feeds import EventTemplate, FeedSpec, Inventory, Paging, SubscriptionAnswer, SubscriptionSpec
from providers.manifest.operations import RequestTemplate
from providers.provider import Provider
from providers.reading import at
from providers.sdk import Account, HttpRequest, HttpResponse, InboundRequest
from providers.sources import Reading
from providers.templates import ABSENT, Scope, render

_JSON: Final = "application/json"
_THOUSAND: Final = 1000
DriftKind = Literal["missing", "unknown", "expiry"]


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time. Vendors take both ends for inclusive, so an event at a seam may come twice."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a feed: deliveries as the vendor would have sent them, the next page (empty after the last).

    `full` says that the answer has as many items as it can have, so that more may have been cut off.
    """

    deliveries: tuple[InboundRequest, ...]
    next: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """A subscription as its provider tells it; `more` holds what its renewal or its end will need."""

    ext_id: str
    url: str = ""
    expires_at: datetime | None = None
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between the provider's list and ours: ours is `missing` there, theirs is `unknown`, or `expiry`."""

    kind: DriftKind
    ext_id: str
    found: Registration | None = None


# --- feeds ------------------------------------------------------------------------------------------------------------


def page_request(feed: FeedSpec, account: Account, window: Window, page: str = "") -> HttpRequest:
    """Return the request for a page of a window, the first one when `page` is empty; without credentials."""
    values = {"since": window.since, "until": window.until, "page_size": feed.page_size, "page": page}
    return _paged(feed.request, feed.paging, _scope(account, values), page)


def enable_request(feed: FeedSpec, account: Account) -> HttpRequest | None:
    """Return the request that lets the vendor begin to keep events, or None where that is not needed."""
    return None if feed.enable is None else render_request(feed.enable, _scope(account, {}))


def parse_page(provider: Provider, feed: FeedSpec, account: Account, response: HttpResponse) -> Page:
    """Read a 2xx answer; raises `Invalid` (`unreadable_answer`) when the list is not there."""
    found = _items(response, feed.items, optional=feed.items_optional)
    items = [one.item for one in found]
    if feed.event is None:
        deliveries = tuple(_delivery(provider, item, {}) for item in items)
    else:
        deliveries = tuple(_wrapped(provider, feed.event, account, one) for one in found)
    full = feed.cap is not None and len(items) >= feed.cap
    return Page(deliveries, _next(feed.paging, response.json, items), full)


def _wrapped(provider: Provider, event: EventTemplate, account: Account, one: Reading) -> InboundRequest:
    """Return the delivery that an object stands for."""
    values: dict[str, Any] = {name: at(one.item, pointer) for name, pointer in event.values.items()}
    values |= {f"way{place}": key for place, key in enumerate(one.way, start=1)}
    scope = Scope(_scope(account, values).values, event.maps)
    body = render(event.body, scope)
    headers = {name: str(text) for name, raw in event.headers.items() if (text := render(raw, scope)) is not ABSENT}
    return _delivery(provider, body, headers)


def _delivery(provider: Provider, body: Any, headers: Mapping[str, str]) -> InboundRequest:
    given = {"content-type": _JSON} | {name.lower(): text for name, text in headers.items()}
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    method = next(iter(provider.webhook.methods))
    return InboundRequest(method, "", {name: [text] for name, text in given.items()}, content)


# --- subscriptions ----------------------------------------------------------------------------------------------------


def create_request(spec: SubscriptionSpec, account: Account, values: Mapping[str, Any]) -> HttpRequest:
    """Return the request that registers a subscription; `values` are those that `SubscriptionSpec` names."""
    return render_request(spec.create, _scope(account, values))


def renew_request(spec: SubscriptionSpec, account: Account, values: Mapping[str, Any]) -> HttpRequest | None:
    """Return the request that prolongs a subscription, or None where another one has to be made."""
    return None if spec.renew is None else render_request(spec.renew, _scope(account, values))


def delete_request(spec: SubscriptionSpec, account: Account, values: Mapping[str, Any]) -> HttpRequest | None:
    """Return the request that ends a subscription, or None where nothing of the kind is documented."""
    return None if spec.delete is None else render_request(spec.delete, _scope(account, values))


def list_request(inventory: Inventory, account: Account, page: str = "") -> HttpRequest:
    """Return the request for a page of what is registered."""
    return _paged(inventory.request, inventory.paging, _scope(account, {"page": page}), page)


def parse_registration(spec: SubscriptionSpec, response: HttpResponse, chosen: str) -> Registration:
    """Read the answer to a registration or renewal, whose id may be the one that was `chosen`.

    Raises `Invalid` (`unreadable_answer`) when the id or the end is not there.
    """
    found = _registration(spec.answer, response.json)
    if not found.ext_id and not chosen:
        raise Invalid("unreadable_answer", "the answer does not name the subscription", field=spec.answer.id)
    return replace(found, ext_id=found.ext_id or chosen)


def parse_inventory(spec: SubscriptionSpec, response: HttpResponse) -> tuple[list[Registration], str]:
    """Read a page of what is registered, with the next page; raises `Invalid` (`unreadable_answer`)."""
    if spec.list is None:
        raise Invalid("no_inventory", "the provider has no list of subscriptions")
    items = [one.item for one in _items(response, spec.list.items, optional=spec.list.items_optional)]
    found = [_registration(spec.answer, one) for one in items]
    if not all(one.ext_id for one in found):
        raise Invalid("unreadable_answer", "an entry has no id", field=spec.answer.id)
    return found, _next(spec.list.paging, response.json, items)


def compare(ours: Mapping[str, datetime | None], listed: Sequence[Registration], urls: Sequence[str]) -> list[Drift]:
    """Return how a provider's list differs from `ours`, which is ends by the vendor's id.

    What is registered for other addresses than `urls` is somebody else's, and none of our business.
    """
    known = {one.ext_id: one for one in listed}
    drifts = [Drift("missing", ext_id) for ext_id in ours if ext_id not in known]
    for ext_id, one in known.items():
        if ext_id not in ours:
            drifts += [Drift("unknown", ext_id, one)] if one.url in urls else []
        elif one.expires_at is not None and one.expires_at != ours[ext_id]:
            drifts.append(Drift("expiry", ext_id, one))
    return drifts


def _registration(answer: SubscriptionAnswer, document: Any) -> Registration:
    more = {name: _text(at(document, pointer)) for name, pointer in answer.more.items()}
    ext_id = _text(at(document, answer.id)) if answer.id else ""
    url = _text(at(document, answer.url)) if answer.url else ""
    return Registration(ext_id, url, _instant(answer, document), {name: text for name, text in more.items() if text})


def _instant(answer: SubscriptionAnswer, document: Any) -> datetime | None:
    value = at(document, answer.expires) if answer.expires else None
    if value is None:
        return None
    try:
        if answer.expires_format == "rfc3339":
            found = datetime.fromisoformat(str(value))
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        seconds = int(value) / (_THOUSAND if answer.expires_format == "unix_ms" else 1)
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        raise Invalid("unreadable_answer", "the end of the subscription is no time", field=answer.expires) from None


# --- pages ------------------------------------------------------------------------------------------------------------


def _scope(account: Account, values: Mapping[str, Any]) -> Scope:
    built_in = {"account_ref": account.account_ref, "mode": account.mode, "option": account.options}
    return Scope({**built_in, **values})


def _paged(template: RequestTemplate, paging: Paging, scope: Scope, page: str) -> HttpRequest:
    request = render_request(template, scope)
    if paging.kind != "links" or not page:
        return request
    parts = urlsplit(page)
    return replace(request, path=parts.path, query=dict(parse_qsl(parts.query, keep_blank_values=True)))


def _items(response: HttpResponse, pointer: str, *, optional: bool) -> list[Reading]:
    document = response.json
    if optional and "*" not in pointer and isinstance(document, dict) and at(document, pointer) is None:
        return []
    body = response.body or json.dumps(document).encode()
    try:
        return Reading(InboundRequest("POST", "", {}, body)).items([pointer])
    except Invalid:
        if optional and isinstance(document, dict) and "*" in pointer and at(document, pointer.partition("/*")[0]):
            # The frame is there, and none of the lists that stand in it when something changed.
            return []
        raise Invalid("unreadable_answer", "the list is not there", field=pointer) from None


def _next(paging: Paging, document: Any, items: Sequence[Any]) -> str:
    if paging.kind == "cursor":
        return _text(at(document, paging.next))
    if paging.kind == "last_id":
        if at(document, paging.more) is not True:
            return ""
        last = _text(at(items[-1], paging.id)) if items else ""
        if not last:
            raise Invalid("unreadable_answer", "there is more, and nothing to go on from", field=paging.id)
        return last
    if paging.kind == "links":
        return _linked(at(document, paging.next))
    return ""


def _linked(links: Any) -> str:
    """Return path and query of the link to the next page; the host is always the connection's own."""
    listed = [one for one in links if isinstance(one, dict)] if isinstance(links, list) else []
    href = (
        links if isinstance(links, str) else next((one.get("href") for one in listed if one.get("rel") == "next"), "")
    )
    if not isinstance(href, str) or not href:
        return ""
    parts = urlsplit(href)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
