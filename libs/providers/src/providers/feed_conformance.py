"""Conformance of `feeds.toml`: golden pages and registrations, in `fixtures/feeds/`.

Used by tests, `tools/providers_check` and `patchbay conformance --outbound`. Production paths never call this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from contracts.errors import Invalid, PatchbayError
from providers import feeds
from providers.feeds import Page, Registration, Window
from providers.manifest.feeds import FeedSpec, SubscriptionSpec
from providers.outbound_conformance import NOW, Check, as_json
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse

_SHOWN: Final = 1500


@dataclass(frozen=True, slots=True)
class FeedCase:
    """One file: what it is about, the account, and steps with a request, an answer and what must be read from it."""

    name: str
    raw: Mapping[str, Any]

    @property
    def account(self) -> Account:
        """The account that asks."""
        return Account(**self.raw["account"])

    @property
    def window(self) -> Window:
        """The span of time that is asked for."""
        return Window(datetime.fromisoformat(self.raw["since"]), datetime.fromisoformat(self.raw["until"]))

    @property
    def values(self) -> dict[str, Any]:
        """What a registration's templates may name, its end as an instant."""
        given = dict(self.raw["values"])
        return given | ({"expires": datetime.fromisoformat(given["expires"])} if "expires" in given else {})


def feed_cases(folder: Path) -> list[FeedCase]:
    """Return `fixtures/feeds/*.json`, sorted by name."""
    paths = sorted((folder / "fixtures" / "feeds").glob("*.json"))
    return [FeedCase(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def feed_checks(provider: Provider) -> Iterator[Check]:
    """Yield every check of a provider's feeds and subscriptions; nothing for a provider without any."""
    cases = feed_cases(provider.folder)
    for feed in provider.manifest.feeds:
        own = [case for case in cases if case.raw.get("feed") == feed.name]
        yield from _presence(f"feed.{feed.name}", own)
        for case in own:
            yield from _of_pages(provider, feed, case)
            yield from _coverage(feed, case)
    for spec in provider.manifest.subscriptions:
        own = [case for case in cases if case.raw.get("subscription") == spec.name]
        yield from _presence(f"subscription.{spec.name}", own)
        for case in own:
            yield from _of_steps(provider, spec, case)


def read_page(provider: Provider, feed: FeedSpec, case: FeedCase, response: HttpResponse) -> Any:
    """Return what a page says, as fixtures write it."""
    try:
        page = feeds.parse_page(provider, feed, case.account, response)
        return _page_json(provider, case.account, page)
    except PatchbayError as error:
        return {"raises": error.code}


def read_step(spec: SubscriptionSpec, step: str, response: HttpResponse, chosen: str) -> Any:
    """Return what an answer to a step of a registration says, as fixtures write it."""
    try:
        if step == "list":
            found, following = feeds.parse_inventory(spec, response)
            return {"items": [_registration_json(one) for one in found], "next": following}
        return None if step == "delete" else _registration_json(feeds.parse_registration(spec, response, chosen))
    except PatchbayError as error:
        return {"raises": error.code}


def step_request(spec: SubscriptionSpec, step: str, case: FeedCase) -> HttpRequest | None:
    """Return the request of a step: create, renew, delete or list; None where the vendor has none."""
    if step == "list":
        return feeds.list_request(spec.list, case.account) if spec.list is not None else None
    makers = {"create": feeds.create_request, "renew": feeds.renew_request, "delete": feeds.delete_request}
    return makers[step](spec, case.account, case.values)


def _presence(name: str, cases: list[FeedCase]) -> Iterator[Check]:
    yield Check(name, "fixture", None if cases else "there is none under fixtures/feeds")


def _of_pages(provider: Provider, feed: FeedSpec, case: FeedCase) -> Iterator[Check]:
    name = f"feed.{feed.name}"
    if feed.enable is not None:
        asked = feeds.enable_request(feed, case.account)
        yield Check(
            name, f"enabling of {case.name}", _difference(case.raw.get("enable"), _authorised(provider, case, asked))
        )
    for number, page in enumerate(case.raw["pages"]):
        request = feeds.page_request(feed, case.account, case.window, page["page"])
        yield Check(
            name, f"page {number} of {case.name}", _difference(page["request"], _authorised(provider, case, request))
        )
        found = read_page(provider, feed, case, _response(page["response"]))
        yield Check(name, f"answer {number} of {case.name}", _difference(page["expect"], found))


def _coverage(feed: FeedSpec, case: FeedCase) -> Iterator[Check]:
    name, expected = f"feed.{feed.name}", [page["expect"] for page in case.raw["pages"]]
    shows = any(one.get("events") for one in expected)
    yield Check(name, f"{case.name} shows an event", None if shows else "no page of it has one")
    if feed.paging.kind != "none":
        both = any(one.get("next") for one in expected) and any(one.get("next") == "" for one in expected)
        yield Check(
            name, f"{case.name} shows paging", None if both else "it needs a page with a next one, and a last one"
        )


def _of_steps(provider: Provider, spec: SubscriptionSpec, case: FeedCase) -> Iterator[Check]:
    name = f"subscription.{spec.name}"
    for step in ("create", "renew", "delete", "list"):
        golden = case.raw["steps"].get(step)
        request = step_request(spec, step, case)
        shown = _authorised(provider, case, request) if request is not None else None
        yield Check(name, f"{step} of {case.name}", _difference(golden["request"] if golden else None, shown))
        if golden:
            found = read_step(spec, step, _response(golden["response"]), str(case.values.get("id", "")))
            yield Check(name, f"answer to {step} of {case.name}", _difference(golden["expect"], found))


def _authorised(provider: Provider, case: FeedCase, request: HttpRequest | None) -> dict[str, Any]:
    if request is None:
        raise Invalid("no_template", "there is no such request")
    return as_json(provider.authorise(request, case.account, NOW))


def _page_json(provider: Provider, account: Account, page: Page) -> dict[str, Any]:
    items = [item for one in page.deliveries for item in provider.split(one, account.options)]
    events = [
        {"id": one.event_id, "type": one.event_type, "entity": ":".join(one.entity) if one.entity else ""}
        for one in items
    ]
    return {"events": events, "next": page.next} | ({"full": True} if page.full else {})


def _registration_json(found: Registration) -> dict[str, Any]:
    ends = found.expires_at.isoformat() if found.expires_at else None
    return {"id": found.ext_id, "url": found.url, "expires": ends, "more": dict(found.more)}


def _response(raw: Mapping[str, Any]) -> HttpResponse:
    return HttpResponse(raw["status"], raw.get("headers", {}), raw.get("json"))


def _difference(expected: Any, found: Any) -> str | None:
    wanted, shown = (json.loads(json.dumps(one)) for one in (expected, found))
    if wanted == shown:
        return None
    return f"expected {json.dumps(wanted, sort_keys=True)[:_SHOWN]}, found {json.dumps(shown, sort_keys=True)[:_SHOWN]}"
