"""What usage teaches about a limit: lower at once, higher after three windows that agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.events.health import QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.limits import Learned, is_known, published, rate_of
from providers import registry

START = datetime(2026, 3, 1, tzinfo=UTC)
BELIEVED = QuotaWindow(limit=10, seconds=1)


def usage(*, limit: float | None = None, window: int = 0, estimate: float | None = None) -> QuotaUsage:
    reset = START + timedelta(minutes=window) if limit is not None else None
    return QuotaUsage(
        provider="acme",
        bucket="account",
        worker="w",
        used={"bulk": 1.0},
        seen_limit=limit,
        seen_reset_at=reset,
        estimate=estimate,
        since=START,
        until=START,
    )


def test_a_lower_limit_in_the_headers_is_believed_as_soon_as_its_window_is_known() -> None:
    learned = Learned()
    learned.observe(usage(limit=300, window=1), BELIEVED)
    assert learned.window is None, "one reset does not say how long a window is"
    learned.observe(usage(limit=300, window=2), BELIEVED)
    assert learned.window == QuotaWindow(limit=300, seconds=60, shape="fixed")


def test_a_higher_limit_needs_three_windows_that_agree() -> None:
    learned = Learned()
    for window in range(1, 4):
        learned.observe(usage(limit=1200, window=window), BELIEVED)
        assert learned.window is None
    learned.observe(usage(limit=1200, window=4), BELIEVED)
    assert learned.window is not None
    assert rate_of(learned.window) == 20


def test_the_estimate_from_429s_is_followed() -> None:
    learned = Learned()
    learned.observe(usage(estimate=9.95), BELIEVED)
    assert learned.window is None
    learned.observe(usage(estimate=7), BELIEVED)
    assert learned.window == QuotaWindow(limit=7, seconds=1)


@pytest.mark.parametrize("window", [0, 100_000])
def test_nonsense_resets_teach_nothing(window: int) -> None:
    learned = Learned()
    learned.observe(usage(limit=1, window=0), BELIEVED)
    learned.observe(usage(limit=1, window=window), BELIEVED)
    assert learned.window is None


def test_published_limits_come_from_the_manifests() -> None:
    found = published()
    rated = [
        one for one in registry.all_providers() if one.manifest.api is not None and one.manifest.api.rate is not None
    ]
    assert {key.provider for key in found} == {one.slug for one in rated}
    assert rated
    assert is_known(rated[0].slug)
    assert not is_known("nobody")
