"""Every dialect of rate-limit headers, and when what they say is believed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_worker.limiter.learning import LimitEstimate, Seen, parse

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = NOW.timestamp()


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, Seen()),
        ({"RateLimit-Policy": '"default";q=100;w=10', "RateLimit": '"default";r=50;t=4'}, Seen(100, 50, 4, 10)),
        (
            {
                "RateLimit-Policy": '"burst";q=100;w=60, "daily";q=1000;w=86400',
                "RateLimit": '"burst";r=90, "daily";r=10;t=9',
            },
            Seen(1000, 10, 9, 86400),
        ),
        ({"RateLimit": "limit=100, remaining=20, reset=7"}, Seen(100, 20, 7)),
        ({"RateLimit-Limit": "100, 100;w=10", "RateLimit-Remaining": "3", "RateLimit-Reset": "8"}, Seen(100, 3, 8, 10)),
        (
            {"X-RateLimit-Limit": "60", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{EPOCH + 30:.0f}"},
            Seen(60, 0, 30),
        ),
        ({"X-RateLimit-Limit": "60", "X-RateLimit-Reset": "45"}, Seen(60, None, 45)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": f"{(EPOCH + 2) * 1000:.0f}"}, Seen(None, 1, 2)),
        (
            {"X-RateLimit-Limit": "5", "X-RateLimit-Reset": "1470173023.5", "X-RateLimit-Reset-After": "1.5"},
            Seen(5, None, 1.5),
        ),
        ({"X-Rate-Limit-Limit": "9", "X-Rate-Limit-Remaining": "2"}, Seen(9, 2)),
        ({"Retry-After": "12"}, Seen(retry_after_s=12)),
        ({"retry-after": "Sun, 01 Mar 2026 12:01:30 GMT"}, Seen(retry_after_s=90)),
        ({"Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"}, Seen(retry_after_s=0)),
        ({"Retry-After": "soon"}, Seen()),
        ({"X-RateLimit-Limit": "-1", "X-RateLimit-Remaining": "nan"}, Seen()),
    ],
)
def test_headers_are_read_in_every_dialect(headers: dict[str, str], seen: Seen) -> None:
    assert parse(headers, NOW) == seen


NAMES = st.sampled_from(["RateLimit", "RateLimit-Policy", "RateLimit-Limit", "X-RateLimit-Reset", "Retry-After"])


@given(st.dictionaries(NAMES, st.text(max_size=40)))
def test_nonsense_says_nothing_and_breaks_nothing(headers: dict[str, str]) -> None:
    for value in (seen := parse(headers, NOW)).limit, seen.remaining, seen.reset_s, seen.retry_after_s:
        assert value is None or 0 <= value < float("inf")


def test_a_lower_limit_is_believed_at_once_a_higher_one_after_three_windows() -> None:
    estimate = LimitEstimate()
    assert estimate.observe(100, 1) == 100
    assert estimate.observe(40, 1) == 40
    assert [estimate.observe(100, window) for window in (2, 2, 2, 3)] == [40, 40, 40, 40]
    assert estimate.observe(90, 4) == 90, "the least that the three windows allowed"


def test_a_window_that_says_less_starts_the_count_again() -> None:
    estimate = LimitEstimate()
    estimate.observe(40, 1)
    estimate.observe(100, 2)
    estimate.observe(100, 3)
    assert estimate.observe(40, 4) == 40
    assert estimate.observe(100, 5) == 40
