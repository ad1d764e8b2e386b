"""Feeds and subscriptions as data: golden pages, what is refused, and how a provider's list is compared with ours."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import Invalid
from providers import feeds, registry
from providers.feed_conformance import feed_checks
from providers.feeds import Drift, Registration, Window
from providers.manifest import Manifest, load
from providers.manifest.feeds import FeedSpec
from providers.provider import Provider
from providers.sdk import Account, HttpResponse

WITH_FEEDS = [one for one in registry.all_providers() if one.manifest.feeds or one.manifest.subscriptions]
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(hours=1), NOW)
ACCOUNT = Account("acct", {"key": "test-key"})
BASE: dict[str, Any] = {
    "name": "events",
    "kind": "events",
    "source": "https://docs.test/",
    "request": {"method": "GET", "path": "/events", "query": {"from": "{since}", "to": "{until}", "cursor": "{page?}"}},
    "items": "/data",
    "paging": {"kind": "cursor", "next": "/next"},
    "retention_h": 24,
}


def feed(**changes: Any) -> FeedSpec:
    return FeedSpec.model_validate(BASE | changes)


def provider(**changes: Any) -> Provider:
    document = {
        "schema": 1,
        "slug": "acme",
        "name": "Acme",
        "category": "test",
        "docs": "https://docs.test/",
        "owners": ["@tests"],
        "tier": "bronze",
        "secrets": {
            "webhook": {"description": "signing secret", "use": ["webhook"], "required": True},
            "key": {"description": "key of the API", "use": ["api"], "required": False},
        },
        "webhook": {
            "signature": {"scheme": "hmac", "header": "X-Signature", "encoding": "hex", "template": "{body}"},
            "event_id": ["body:/id"],
            "event_type": ["body:/type"],
        },
        "api": {"base_url": "https://api.acme.test", "auth": {"key": {"kind": "bearer", "secret": "key"}}},
    }
    return Provider(Path("/nowhere"), Manifest.model_validate(document | changes))


def read(spec: FeedSpec, document: Any) -> feeds.Page:
    return feeds.parse_page(provider(), spec, ACCOUNT, HttpResponse(200, {}, document))


@pytest.mark.parametrize("one", WITH_FEEDS, ids=lambda one: str(one.slug))
def test_golden_pages_and_registrations(one: Provider) -> None:
    checks = list(feed_checks(one))
    assert checks
    assert [(check.operation, check.name, check.problem) for check in checks if check.problem] == []


def test_the_check_finds_a_changed_request() -> None:
    one = next((each for each in WITH_FEEDS if each.manifest.feeds), None)
    if one is None:
        pytest.skip("the providers' folders were deleted")
    spec = one.manifest.feeds[0]
    template = spec.request.model_copy(update={"path": "/elsewhere"})
    changed = one.manifest.model_copy(update={"feeds": (spec.model_copy(update={"request": template}),)})
    assert any(check.problem for check in feed_checks(Provider(one.folder, changed)))


def test_a_window_and_a_page_are_in_the_request() -> None:
    request = feeds.page_request(feed(), ACCOUNT, WINDOW, "c2")
    assert dict(request.query) == {"from": "2026-11-21T11:00:00Z", "to": "2026-11-21T12:00:00Z", "cursor": "c2"}
    assert "cursor" not in feeds.page_request(feed(), ACCOUNT, WINDOW).query


def test_events_are_deliveries_with_the_ids_that_webhooks_have() -> None:
    page = read(feed(), {"data": [{"id": "e1", "type": "made"}], "next": "c2"})
    (item,) = provider().split(page.deliveries[0])
    assert (item.event_id, item.event_type, json.loads(item.data), page.next) == (
        *("e1", "made", {"id": "e1", "type": "made"}),
        "c2",
    )


@pytest.mark.parametrize("document", [None, [], {}, {"data": None}, {"data": {"id": "e1"}}, {"error": "denied"}])
def test_an_answer_without_its_list_is_never_no_data(document: Any) -> None:
    with pytest.raises(Invalid) as raised:
        read(feed(), document)
    assert raised.value.code == "unreadable_answer"


def test_a_list_that_may_be_left_out_is_empty_then() -> None:
    assert read(feed(items_optional=True), {}) == feeds.Page((), "")
    with pytest.raises(Invalid):
        read(feed(items_optional=True), {"data": "text"})


@pytest.mark.parametrize(
    ("paging", "document", "expected"),
    [
        ({"kind": "cursor", "next": "/next"}, {"data": [], "next": ""}, ""),
        ({"kind": "cursor", "next": "/next"}, {"data": []}, ""),
        ({"kind": "last_id", "id": "/id", "more": "/more"}, {"data": [{"id": "a"}, {"id": "b"}], "more": True}, "b"),
        ({"kind": "last_id", "id": "/id", "more": "/more"}, {"data": [{"id": "a"}], "more": False}, ""),
        ({"kind": "links", "next": "/links"}, {"data": [], "links": [{"rel": "self", "href": "/a"}]}, ""),
        ({"kind": "links", "next": "/next"}, {"data": [], "next": "https://evil.test/events?page=2"}, "/events?page=2"),
        ({"kind": "none"}, {"data": [], "next": "c2"}, ""),
    ],
)
def test_the_next_page(paging: dict[str, str], document: Any, expected: str) -> None:
    assert read(feed(paging=paging), document).next == expected


@pytest.mark.parametrize("items", [[], [{"id": "a"}, {"name": "no id"}]])
def test_more_without_anything_to_go_on_from_is_an_error(items: list[Any]) -> None:
    with pytest.raises(Invalid) as raised:
        read(feed(paging={"kind": "last_id", "id": "/id", "more": "/more"}), {"data": items, "more": True})
    assert raised.value.code == "unreadable_answer"


def test_a_link_is_followed_on_the_own_host_only() -> None:
    spec = feed(paging={"kind": "links", "next": "/next"})
    page = read(spec, {"data": [], "next": "https://evil.test/events?page=2&q=a%20b"})
    request = feeds.page_request(spec, ACCOUNT, WINDOW, page.next)
    assert (request.path, dict(request.query), request.base_url) == ("/events", {"page": "2", "q": "a b"}, "")


def test_an_answer_as_long_as_it_can_be_is_marked() -> None:
    assert read(feed(cap=2), {"data": [{"id": 1}, {"id": 2}]}).full
    assert not read(feed(cap=3), {"data": [{"id": 1}, {"id": 2}]}).full


def test_objects_become_deliveries_whose_id_follows_from_the_version() -> None:
    event = {"values": {"id": "/Id", "version": "/V"}, "body": {"id": "{way1}:{id}:{version}", "type": "{way1|lower}"}}
    spec = feed(kind="objects", event=event, items="/found/*", paging={"kind": "none"})
    page = read(spec, {"found": {"Invoice": [{"Id": "7", "V": 3}], "count": 1}})
    (item,) = provider().split(page.deliveries[0])
    assert (item.event_id, item.event_type) == ("Invoice:7:3", "invoice")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "objects"},
        {"event": {"body": {}}},
        {"request": {"method": "GET", "path": "/events"}},
        {"paging": {"kind": "last_id", "id": "/id"}},
        {"request": {"method": "GET", "path": "/events", "query": {"from": "{since}"}}},
        {"source": "somebody said so"},
    ],
)
def test_a_feed_that_is_not_whole_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        feed(**changes)


def test_feeds_need_an_api_and_are_loaded_beside_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"need \[api\]"):
        provider(feeds=[BASE], api=None)
    one = next((each for each in WITH_FEEDS if each.manifest.feeds), None)
    if one is None:
        pytest.skip("the providers' folders were deleted")
    for name in ("manifest.toml", "operations.toml"):
        if (one.folder / name).is_file():
            (tmp_path / name).write_bytes((one.folder / name).read_bytes())
    assert load(tmp_path / "manifest.toml").feeds == ()
    (tmp_path / "feeds.toml").write_text('[[feeds]]\nname = "events"\n')
    with pytest.raises(Invalid) as raised:
        load(tmp_path / "manifest.toml")
    assert raised.value.code == "bad_manifest"


def test_a_list_of_subscriptions_is_compared_with_ours() -> None:
    ours = {"kept": NOW, "gone": NOW, "moved": NOW}
    listed = [
        Registration("kept", "https://us/hook", NOW),
        Registration("moved", "https://us/hook", NOW + timedelta(hours=1)),
        Registration("twin", "https://us/hook"),
        Registration("theirs", "https://them/hook"),
    ]
    found = {(one.kind, one.ext_id) for one in feeds.compare(ours, listed, ["https://us/hook"])}
    assert found == {("missing", "gone"), ("expiry", "moved"), ("unknown", "twin")}
    assert feeds.compare({}, [], []) == []
    assert feeds.compare({"a": None}, [], []) == [Drift("missing", "a")]
