"""How much is leased ahead: more where few calls would share a round trip, never much of a small window."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contracts.events.health import QuotaPolicy, QuotaWindow
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.pools import Pool


def _pool(limit: float) -> Pool:
    book = PolicyBook()
    window = QuotaWindow(limit=limit, seconds=10, shape="fixed")
    book.put(
        QuotaPolicy(
            provider="p", bucket="account", windows=(window,), version=1, decided_at=datetime(2026, 1, 1, tzinfo=UTC)
        )
    )
    return Pool(book.path("p", "c"), "interactive")


def _used(pool: Pool, per_s: float) -> float:
    """Use a pool for two seconds and return what is leased then."""
    size = 0.0
    for step in range(1, 41):
        pool.spent += per_s * 0.05
        size = pool.lease_size(step * 0.05)
    return size


@pytest.mark.parametrize(
    ("limit", "per_s", "units"),
    [
        (100_000, 50, 10),  # 200 ms of it
        (100_000, 200, 40),
        (100_000, 1000, 100),  # 100 ms, because enough calls share a trip anyway
        (1_000, 60, 12),
        (100, 60, 9.8),  # a tenth of the window, though 200 ms would be 12
    ],
)
def test_a_lease_covers_more_where_few_calls_share_a_round_trip(limit: float, per_s: float, units: float) -> None:
    assert _used(_pool(limit), per_s) == pytest.approx(units, rel=0.05)


def test_the_next_lease_is_asked_for_when_thirty_milliseconds_are_left_or_half() -> None:
    pool = _pool(100_000)
    pool.units = _used(pool, 200)
    assert pool.low_mark() == pytest.approx(6, rel=0.05)
    pool.units = 8.0
    assert pool.low_mark() == 4
