"""What usage teaches about a limit: lower at once, higher after three windows that agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.events.health import QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.limits import Learned, is_known, lowered, published, replaced
from providers import registry
from providers.quotas import published_windows

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = QuotaWindow(limit=600, seconds=60, shape="fixed")
DAY = QuotaWindow(limit=5000, seconds=86_400, shape="fixed")
SLOTS = QuotaWindow(limit=5, seconds=1, shape="concurrent")
IN_FORCE = (MINUTE, DAY, SLOTS)


def usage(
    *,
    limit: float | None = None,
    at_s: float = 0,
    reset_s: float | None = None,
    window_s: float | None = None,
    estimate: float | None = None,
) -> QuotaUsage:
    at = START + timedelta(seconds=at_s)
    return QuotaUsage(
        provider="acme",
        bucket="account",
        owner="c",
        worker="w",
        used={"bulk": 1.0},
        seen_limit=limit,
        seen_reset_at=None if reset_s is None else START + timedelta(seconds=reset_s),
        seen_window_s=window_s,
        estimate=estimate,
        since=at - timedelta(seconds=1),
        until=at,
    )


def in_minutes(learned: Learned, limit: float, *minutes: int) -> list[QuotaWindow | None]:
    """Take a report one second into each of these minutes; return what was believed after each."""
    believed = []
    for minute in minutes:
        learned.observe(usage(limit=limit, at_s=60 * minute + 1, reset_s=60 * minute + 60), IN_FORCE)
        believed.append(learned.window)
    return believed


def test_a_lower_limit_in_the_headers_is_believed_as_soon_as_its_window_is_known() -> None:
    believed = in_minutes(Learned(), 300, 1, 2)
    assert believed == [None, QuotaWindow(limit=300, seconds=60, shape="fixed")], "one reset does not say how long"


def test_a_worker_that_knows_the_window_needs_no_second_reset() -> None:
    learned = Learned()
    learned.observe(usage(limit=300, window_s=60), IN_FORCE)
    assert learned.window == QuotaWindow(limit=300, seconds=60, shape="fixed")


def test_a_higher_limit_needs_three_windows_that_agree() -> None:
    learned = Learned()
    assert in_minutes(learned, 1200, 1, 2, 3) == [None] * 3
    assert in_minutes(learned, 1200, 4) == [QuotaWindow(limit=1200, seconds=60, shape="fixed")]
    other = Learned()
    for at_s in (0, 1, 2, 3, 59, 60, 61):
        other.observe(usage(limit=1200, at_s=at_s, window_s=60), IN_FORCE)
    assert other.window is None, "seven reports of two windows"


def test_windows_that_disagree_raise_nothing() -> None:
    learned = Learned()
    for minute in range(1, 9):
        learned.observe(usage(limit=1200 + minute % 2, at_s=60 * minute, window_s=60), IN_FORCE)
    assert learned.window is None


def test_a_quiet_account_is_not_taken_for_one_with_longer_windows() -> None:
    assert in_minutes(Learned(), 600, 1, 10, 25, 90) == [None] * 4


def test_a_reset_that_slides_or_is_told_in_whole_seconds_is_no_window() -> None:
    learned = Learned()
    for at_s in range(50):
        learned.observe(usage(limit=10, at_s=at_s, reset_s=at_s + 20 + at_s % 2), IN_FORCE)
    assert learned.window is None


def test_a_distance_within_a_second_of_a_known_window_is_that_window() -> None:
    learned = Learned()
    learned.observe(usage(limit=300, at_s=59, reset_s=60), IN_FORCE)
    learned.observe(usage(limit=300, at_s=61, reset_s=121), IN_FORCE)
    assert learned.window == QuotaWindow(limit=300, seconds=60, shape="fixed")


def test_the_estimate_from_429s_is_followed() -> None:
    learned = Learned()
    learned.observe(usage(estimate=9.95), IN_FORCE)
    assert learned.window is None
    learned.observe(usage(estimate=7), IN_FORCE)
    assert learned.window == QuotaWindow(limit=7, seconds=1)


@pytest.mark.parametrize("window_s", [None, 0.5, 1e9])
def test_nonsense_teaches_nothing(window_s: float | None) -> None:
    learned = Learned()
    learned.observe(usage(limit=1, at_s=0, reset_s=0, window_s=window_s), IN_FORCE)
    learned.observe(usage(limit=1, at_s=1, reset_s=1e8, window_s=window_s), IN_FORCE)
    learned.observe(usage(limit=0, at_s=2, window_s=60), IN_FORCE)
    assert learned.window is None


def test_a_learned_window_takes_the_place_of_its_length_and_leaves_the_others() -> None:
    less, other = MINUTE.model_copy(update={"limit": 10}), QuotaWindow(limit=9, seconds=7)
    assert replaced(IN_FORCE, less) == (less, DAY, SLOTS)
    assert replaced(IN_FORCE, other) == (*IN_FORCE, other)
    assert lowered(IN_FORCE, less) == (less, DAY)
    assert lowered(IN_FORCE, other) == (MINUTE, DAY, other)
    assert lowered(IN_FORCE, MINUTE.model_copy(update={"limit": 9000})) == lowered(IN_FORCE, None) == (MINUTE, DAY)


def test_published_limits_are_all_windows_of_the_manifests_as_workers_keep_to_them() -> None:
    found = published()
    apis = [(one.slug, api) for one in registry.all_providers() if (api := one.manifest.api) is not None]
    assert found == {
        (slug, kind, "live"): windows
        for slug, api in apis
        for kind, windows in published_windows(api.rate, api.windows).items()
    }
    assert any(window.seconds >= 86_400 for windows in found.values() for window in windows), "quotas of a day, too"
    assert is_known(apis[0][0])
    assert not is_known("nobody")
