"""Which buckets a call passes, and which limits they have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.ids import uuid7_text
from providers.manifest.api import Rate, Window
from sync_worker.limiter.policies import PolicyBook

AT = datetime(2026, 3, 1, tzinfo=UTC)


def policy(limit: float, version: int, bucket: str = "account", **fields: Any) -> QuotaPolicy:
    window = QuotaWindow(limit=limit, seconds=60, shape="fixed")
    return QuotaPolicy(provider="acme", bucket=bucket, windows=(window,), version=version, decided_at=AT, **fields)


def limits(book: PolicyBook, credential: str = "c", **place: Any) -> dict[str, list[float]]:
    buckets = book.path("acme", credential, **place).buckets
    return {bucket.name: [window.limit for window in bucket.windows] for bucket in buckets if bucket.windows}


def test_a_call_passes_the_buckets_of_its_place_from_the_widest_to_the_narrowest() -> None:
    path = PolicyBook().path("acme", "c1", app="a", endpoint="search", address="203.0.113.7")
    assert [name for _, name in path.names] == [
        "acme|app|a",
        "acme|account|c1",
        "acme|endpoint:search|c1",
        "acme|address|203.0.113.7",
    ]
    assert path.narrowest == "acme|endpoint:search|c1"
    assert (path.named("app"), path.named("endpoint:other")) == ("acme|app|a", path.narrowest)


def test_the_same_place_is_the_same_path_and_credentials_share_nothing_but_the_app() -> None:
    book = PolicyBook()
    assert book.path("acme", "c1") is book.path("acme", "c1")
    one, other = book.path("acme", "c1"), book.path("acme", "c2")
    assert {name for _, name in one.names} & {name for _, name in other.names} == {"acme|app|"}


def test_a_manifest_rate_never_lets_more_than_itself_into_one_second() -> None:
    book = PolicyBook()
    book.declare("acme", Rate(per_s=25, scope="account"))
    (window,) = book.path("acme", "c").buckets[1].windows
    assert window.limit + window.burst <= 25
    book.declare("slow", Rate(per_s=1, scope="app"))
    (slow,) = book.path("slow", "c").buckets[0].windows
    assert (slow.limit, slow.burst) == (1, 1)


def test_a_published_burst_and_counted_windows_are_taken_as_they_are() -> None:
    book = PolicyBook()
    windows = [
        Window(limit=5, shape="concurrent"),
        Window(limit=5000, seconds=86400),
        Window(limit=40, seconds=60, quota="batch"),
    ]
    book.declare("acme", Rate(per_s=2, burst=40, scope="account"), windows)
    assert limits(book, endpoint="batch") == {"acme|account|c": [2, 5, 5000], "acme|endpoint:batch|c": [40]}
    assert book.path("acme", "c").concurrent


def test_nothing_published_is_no_limit_until_answers_teach_one() -> None:
    book = PolicyBook()
    book.declare("acme", None)
    assert limits(book) == {}
    book.learn("acme", "acme|account|c", 60, 100)
    assert limits(book) == {"acme|account|c": [100]}
    assert limits(book, "other") == {}


def test_a_learned_limit_counts_only_while_it_is_lower() -> None:
    book = PolicyBook()
    path = book.path("acme", "c")
    book.put(policy(100, 1))
    before = path.version
    book.learn("acme", "acme|account|c", 60, 50)
    assert limits(book) == {"acme|account|c": [50]}
    assert path.version > before
    book.learn("acme", "acme|account|c", 60, 500)
    assert limits(book) == {"acme|account|c": [100]}


def test_records_of_the_topic_replace_older_ones_only() -> None:
    book = PolicyBook()
    book.declare("acme", Rate(per_s=25, scope="account"))
    for known in (policy(10, 3), policy(99, 2)):
        data = encode(known)
        book.apply("acme:account", Envelope(id=uuid7_text(), type=known.TYPE, source="test", time=AT, data=data))
    book.apply("acme:account", None)
    assert limits(book) == {"acme|account|c": [10]}


@pytest.mark.parametrize(("shape", "most"), [("gcra", 4), ("fixed", 98), ("concurrent", 100)])
def test_a_call_may_cost_what_a_window_can_ever_give(shape: Any, most: float) -> None:
    book = PolicyBook()
    window = QuotaWindow(limit=100, seconds=1, burst=4, shape=shape)
    book.put(QuotaPolicy(provider="acme", bucket="account", windows=(window,), version=1, decided_at=AT))
    assert book.path("acme", "c").greatest_cost == most


def names(book: PolicyBook, mode: Any) -> set[str]:
    return {name for _, name in book.path("acme", "c", endpoint="e", address="a", mode=mode).names}


def test_a_sandbox_spends_no_bucket_of_the_live_account() -> None:
    book = PolicyBook()
    live, sandbox = book.path("acme", "c"), book.path("acme", "c", mode="sandbox")
    assert (live.scope, sandbox.scope) == ("acme", "acme:sandbox")
    assert names(book, "sandbox") == {f"acme:sandbox{name.removeprefix('acme')}" for name in names(book, "live")}
    book.declare("acme", Rate(per_s=25, scope="account"))
    book.learn("acme", sandbox.narrowest, 1, 5)
    assert [window.limit for window in live.buckets[1].windows] == [22.5]
    assert [window.limit for window in sandbox.buckets[1].windows] == [5]


def test_a_sandbox_has_the_live_policy_but_nothing_that_live_calls_taught() -> None:
    book = PolicyBook()
    book.declare("acme", Rate(per_s=25, scope="account"))

    def account(mode: Any) -> tuple[list[float], dict[Any, float]]:
        bucket = book.path("acme", "c", mode=mode).buckets[1]
        return [window.limit for window in bucket.windows], bucket.trim

    assert account("live") == account("sandbox") == ([22.5], {})
    book.put(policy(10, 3, source="configured", trims={"c": {"bulk": 1.0}}))
    assert (account("live"), account("sandbox")) == (([10], {"bulk": 1.0}), ([10], {}))
    book.put(policy(3, 4, source="learned"))
    assert (account("live"), account("sandbox")) == (([3], {}), ([22.5], {}))
    book.put(policy(7, 1, mode="sandbox", source="learned"))
    assert (account("live"), account("sandbox")) == (([3], {}), ([7], {}))


def test_what_a_forecast_takes_from_one_owner_is_nothing_to_the_others() -> None:
    book = PolicyBook()
    busy, quiet = book.path("acme", "busy", endpoint="search"), book.path("acme", "quiet", endpoint="search")
    book.put(policy(10, 1))
    version = quiet.version
    book.put(policy(10, 2, trim={"probe": 0.1}, trims={"busy": {"bulk": 0.4}, "": {"bulk": 1.0}}))
    assert [bucket.trim for bucket in busy.buckets] == [{}, {"bulk": 0.4}, {}], "of its account, and of no other kind"
    assert [bucket.trim for bucket in quiet.buckets] == [{}, {}, {}]
    assert quiet.version == version, "a path that nothing changes for is not read again"
    book.put(policy(10, 3, bucket="app", trims={"": {"bulk": 0.5}}))
    assert [path.buckets[0].trim for path in (busy, quiet)] == [{"bulk": 0.5}] * 2


def test_the_first_record_repeats_the_manifest_unless_somebody_set_or_learned_it() -> None:
    book = PolicyBook()
    book.declare("acme", Rate(per_s=25, scope="account"))
    assert not book.put(policy(25, 1))
    assert book.put(policy(9, 1, source="configured"))
    assert limits(book) == {"acme|account|c": [9]}
