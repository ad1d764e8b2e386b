"""The quotas of a manifest, by kind of bucket."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.events.health import QuotaWindow, is_kind
from providers.manifest.api import Rate, Window
from providers.quotas import published_windows


def test_rate_and_windows_of_a_manifest_are_sorted_by_kind_of_bucket() -> None:
    windows = [
        Window(limit=5000, seconds=86_400),
        Window(limit=5, shape="concurrent"),
        Window(limit=40, seconds=60, quota="batch", scope="app"),
        Window(limit=7, seconds=60, scope="ip"),
    ]
    assert published_windows(Rate(per_s=2, burst=40, scope="account"), windows) == {
        "account": (
            QuotaWindow(limit=2, seconds=1, burst=40),
            QuotaWindow(limit=5000, seconds=86_400, shape="fixed"),
            QuotaWindow(limit=5, seconds=1, shape="concurrent"),
        ),
        "endpoint:batch": (QuotaWindow(limit=40, seconds=60, shape="fixed"),),
        "address": (QuotaWindow(limit=7, seconds=60, shape="fixed"),),
    }
    assert published_windows(None) == {}


@pytest.mark.parametrize(("per_s", "limit", "burst"), [(25, 22.5, 2.5), (4, 3, 1), (2, 1, 1), (1, 1, 1), (0.5, 0.5, 1)])
def test_a_rate_without_a_burst_keeps_every_second_below_itself(per_s: float, limit: float, burst: float) -> None:
    (window,) = published_windows(Rate(per_s=per_s, scope="app"))["app"]
    assert (window.limit, window.burst, window.shape) == (limit, burst, "gcra")


@pytest.mark.parametrize("scope", ["account", "app", "ip"])
def test_whatever_a_manifest_can_say_is_about_a_kind_that_policies_can_be_about(scope: Any) -> None:
    found = published_windows(
        Rate(per_s=2, scope=scope), [Window(limit=1, scope=scope), Window(limit=1, scope=scope, quota="a-b.c_1")]
    )
    assert len(found) == 2
    assert all(map(is_kind, found))
