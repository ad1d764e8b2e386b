"""What a bucket's limit is: published by the manifest, lowered or raised by what headers and 429s teach. Pure.

A lower limit is believed at once, a higher one after three windows that agree (health-monitor.md §4.7).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contracts.errors import Invalid
from contracts.events.health import QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.repository.quotas import BucketKey
from providers import registry

_SCOPES: Final = {"account": "account", "app": "app", "ip": "address"}
CONSISTENT_WINDOWS: Final = 3
_LONGEST_WINDOW_S: Final = 31 * 24 * 3600.0
# An estimate within this of what is believed changes nothing.
_SAME: Final = 0.02


def published() -> dict[BucketKey, QuotaWindow]:
    """Return the limits of all manifests, under the live bucket; a provider that publishes none is absent."""
    found: dict[BucketKey, QuotaWindow] = {}
    for provider in registry.all_providers():
        api = provider.manifest.api
        if api is not None and api.rate is not None:
            found[BucketKey(provider.slug, _SCOPES[api.rate.scope])] = QuotaWindow(
                limit=api.rate.per_s, seconds=1, burst=api.rate.burst
            )
    return found


def is_known(provider: str) -> bool:
    """Tell whether there is such a provider."""
    try:
        registry.get(provider)
    except Invalid:
        return False
    return True


@dataclass(slots=True)
class Learned:
    """What usage teaches about one bucket; `window` is absent until there is a reason to believe one."""

    window: QuotaWindow | None = None
    _reset: datetime | None = None
    _candidate: QuotaWindow | None = None
    _agreeing: int = 0

    def observe(self, usage: QuotaUsage, believed: QuotaWindow | None) -> None:
        """Take one report; `believed` is the limit in force."""
        if usage.estimate is not None:
            rate = usage.estimate
            known = rate_of(believed) if believed is not None else None
            if known is None or abs(rate - known) > _SAME * known:
                self.window = QuotaWindow(limit=rate, seconds=1)
            return
        seen = self._seen(usage)
        if seen is None:
            return
        if believed is None or rate_of(seen) < rate_of(believed) * (1 - _SAME):
            self.window, self._agreeing = seen, 0
        elif rate_of(seen) > rate_of(believed) * (1 + _SAME):
            same = self._candidate is not None and rate_of(self._candidate) == rate_of(seen)
            self._agreeing = self._agreeing + 1 if same else 1
            if self._agreeing >= CONSISTENT_WINDOWS:
                self.window, self._agreeing = seen, 0
        self._candidate = seen

    def _seen(self, usage: QuotaUsage) -> QuotaWindow | None:
        """Return the window that headers show: its length is the distance of two resets."""
        if not usage.seen_limit or usage.seen_reset_at is None:
            return None
        before, self._reset = self._reset, max(usage.seen_reset_at, self._reset or usage.seen_reset_at)
        seconds = (usage.seen_reset_at - before).total_seconds() if before is not None else 0.0
        if not 1 <= seconds <= _LONGEST_WINDOW_S:
            return None
        return QuotaWindow(limit=usage.seen_limit, seconds=seconds, shape="fixed")


def rate_of(window: QuotaWindow) -> float:
    """Return a window's limit per second."""
    return window.limit / window.seconds
