"""What is reported of use, and how many retries a provider gets."""

from __future__ import annotations

from datetime import timedelta

from chassis.testing.clock import ManualClock
from contracts.modes import Mode
from providers.manifest.api import Window
from sync_worker.limiter.learning import Seen
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.usage import RetryBudgets, UsageBook


def test_use_is_reported_once_for_every_bucket_that_a_call_passed() -> None:
    clock = ManualClock()
    usage = UsageBook(clock, "w1")
    path = PolicyBook().path("acme", "c")
    usage.spent(path, "bulk", 2.5)
    usage.spent(path, "critical", 1)
    usage.throttled(path, path.narrowest)
    usage.saw(path, path.narrowest, Seen(limit=100, remaining=40, reset_s=30))
    start = clock.now()
    clock.advance(1)
    app, account = usage.collect()
    assert (app.bucket, app.owner, app.used, app.throttled) == ("app", "", {"bulk": 2.5, "critical": 1}, 0)
    assert (account.bucket, account.owner, account.throttled) == ("account", "c", 1)
    assert (account.seen_limit, account.seen_remaining, account.seen_window_s) == (100, 40, None)
    assert account.seen_reset_at == start + timedelta(seconds=30)
    assert (account.since, account.until, account.worker) == (start, clock.now(), "w1")
    assert usage.collect() == []


def test_what_the_sandbox_spends_is_reported_as_such() -> None:
    usage, book = UsageBook(ManualClock(), "w1"), PolicyBook()
    spent: dict[Mode, float] = {"live": 1, "sandbox": 7}
    for mode, units in spent.items():
        path = book.path("acme", "c", mode=mode)
        usage.spent(path, "bulk", units)
        usage.throttled(path, path.narrowest)
    told = {
        (one.mode, one.bucket, one.owner): (one.provider, one.used["bulk"], one.throttled) for one in usage.collect()
    }
    assert told == {
        ("live", "app", ""): ("acme", 1, 0),
        ("live", "account", "c"): ("acme", 1, 1),
        ("sandbox", "app", ""): ("acme", 7, 0),
        ("sandbox", "account", "c"): ("acme", 7, 1),
    }


def test_every_kind_of_bucket_is_reported_with_its_owner() -> None:
    usage = UsageBook(ManualClock(), "w1")
    path = PolicyBook().path("acme", "c|1", app="a", endpoint="search", address="2001:db8::1", mode="sandbox")
    usage.spent(path, "bulk", 1)
    told = [(one.bucket, one.owner) for one in usage.collect()]
    assert told == [("app", "a"), ("account", "c|1"), ("endpoint:search", "c|1"), ("address", "2001:db8::1")]


def test_a_limit_without_a_length_is_about_the_only_window_that_counts() -> None:
    usage, book = UsageBook(ManualClock(), "w1"), PolicyBook()
    book.declare("acme", None, [Window(limit=100, seconds=60), Window(limit=5, shape="concurrent")])
    book.declare("other", None, [Window(limit=100, seconds=60), Window(limit=1000, seconds=3600)])
    for provider, seen in (
        ("acme", Seen(limit=80)),
        ("acme", Seen(limit=80, window_s=10)),
        ("other", Seen(limit=80)),
        ("acme", Seen(remaining=3)),
    ):
        path = book.path(provider, "c")
        usage.saw(path, path.narrowest, seen)
        (told,) = usage.collect()
        expected = seen.window_s or (60 if seen.limit and provider == "acme" else None)
        assert told.seen_window_s == expected, (provider, seen)


def test_retries_must_be_earned_by_clean_calls() -> None:
    budgets = RetryBudgets(ManualClock().monotonic)
    assert [budgets.may_retry("acme") for _ in range(150)].count(True) == 101, "a hundred, and this second's free one"
    for _ in range(4):
        budgets.clean("acme")
    assert not budgets.may_retry("acme")
    budgets.clean("acme")
    assert budgets.may_retry("acme")
    assert budgets.may_retry("other", after_timeout=True)


def test_a_retry_after_a_timeout_costs_twice() -> None:
    budgets = RetryBudgets(ManualClock().monotonic)
    assert [budgets.may_retry("acme", after_timeout=True) for _ in range(80)].count(True) == 51


def test_the_last_retries_of_a_quiet_provider_do_not_wait_for_calls_that_never_come() -> None:
    clock = ManualClock()
    budgets = RetryBudgets(clock.monotonic)
    budgets.saw("acme", 0)
    made = 0
    for _ in range(100):
        clock.advance(0.1)
        made += budgets.may_retry("acme")
    assert made == 10, "one a second"
    assert budgets.take_delta("acme") == 0, "and it costs the others nothing"


def test_what_other_workers_spent_counts_too_and_own_spending_is_told_once() -> None:
    budgets = RetryBudgets(ManualClock().monotonic)
    budgets.may_retry("acme")
    assert (budgets.take_delta("acme"), budgets.take_delta("acme")) == (-5, 0)
    budgets.saw("acme", 4)
    assert [budgets.may_retry("acme") for _ in range(2)] == [True, False], "the free one"
