"""The quotas that a manifest publishes, as windows by kind of bucket: what workers keep to and forecasts are about.

Must never invent a limit that the vendor does not publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from contracts.events.health import QuotaWindow
from providers.manifest.api import Rate, Window

# A vendor that names a rate and no burst is taken to count in whole seconds: what may go at once is taken off the rate,
# so that no second ever holds more than the limit.
ASSUMED_BURST: Final = 0.1
_KINDS: Final = {"account": "account", "app": "app", "ip": "address"}


def published_windows(rate: Rate | None, windows: Sequence[Window] = ()) -> dict[str, tuple[QuotaWindow, ...]]:
    """Return the windows by kind of bucket (`QuotaPolicy.bucket`); a kind that nothing is published for is absent."""
    found: dict[str, list[QuotaWindow]] = {}
    if rate is not None:
        found.setdefault(_KINDS[rate.scope], []).append(_of_rate(rate))
    for window in windows:
        kind = f"endpoint:{window.quota}" if window.quota else _KINDS[window.scope]
        found.setdefault(kind, []).append(
            QuotaWindow(limit=window.limit, seconds=window.seconds, shape=window.shape),
        )
    return {kind: tuple(known) for kind, known in found.items()}


def _of_rate(rate: Rate) -> QuotaWindow:
    """Return the window of a rate; a burst that the vendor states makes it a token bucket."""
    if rate.burst > 1:
        return QuotaWindow(limit=rate.per_s, seconds=1, burst=rate.burst)
    burst = max(1.0, rate.per_s * ASSUMED_BURST)
    # Below two calls a second there is no rate left to take the burst from.
    return QuotaWindow(limit=rate.per_s - burst if rate.per_s >= 2 * burst else rate.per_s, seconds=1, burst=burst)
