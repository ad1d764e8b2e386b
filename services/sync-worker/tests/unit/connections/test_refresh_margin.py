"""When a token is refreshed: min(15 min, 20 % of its lifetime) before its end, spread, daily against disuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_worker.connections.refresh import DAILY_S, MAX_MARGIN_S, Timing, refresh_in_s


@pytest.mark.parametrize(
    ("lifetime_s", "disuse_h", "expected"),
    [
        (600.0, None, 480.0),
        (3600.0, None, 2880.0),
        (4500.0, None, 3600.0),
        (86_400.0, None, 85_500.0),
        (None, None, None),
        (None, 1440.0, DAILY_S),
        (30 * DAILY_S, 2160.0, DAILY_S),
        (3600.0, 2160.0, 2880.0),
    ],
)
def test_the_margin(lifetime_s: float | None, disuse_h: float | None, expected: float | None) -> None:
    assert refresh_in_s(lifetime_s, disuse_h, 0.0) == expected


@given(st.floats(1, 1e8), st.floats(0, 1, exclude_max=True))
def test_the_spread_stays_inside_of_the_margin(lifetime_s: float, draw: float) -> None:
    due = refresh_in_s(lifetime_s, None, draw)
    assert due is not None
    assert lifetime_s - min(MAX_MARGIN_S, 0.2 * lifetime_s) <= due < lifetime_s


def test_the_lease_outlasts_the_slowest_token_call() -> None:
    assert Timing().lease_s > Timing().deadline_s
