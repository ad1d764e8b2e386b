"""What a bucket's limits are: published by the manifest, corrected by what headers and 429s teach. Pure.

A lower limit is believed at once, a higher one after three windows that agree (health-monitor.md §4.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from contracts.errors import Invalid
from contracts.events.health import QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.repository.quotas import BucketKey
from providers import registry
from providers.quotas import published_windows

CONSISTENT_WINDOWS: Final = 3
_LONGEST_WINDOW_S: Final = 31 * 24 * 3600.0
# Resets are told in whole seconds: shorter distances of two of them say nothing, longer ones are one off at most.
_SHORTEST_DISTANCE_S: Final = 10.0
_ROUNDING_S: Final = 1.0
# An estimate within this of what is believed changes nothing.
_SAME: Final = 0.02


def published() -> dict[BucketKey, tuple[QuotaWindow, ...]]:
    """Return the limits of all manifests, under the live bucket; a provider that publishes none is absent."""
    return {
        BucketKey(provider.slug, kind): windows
        for provider in registry.all_providers()
        if (api := provider.manifest.api) is not None
        for kind, windows in published_windows(api.rate, api.windows).items()
    }


def is_known(provider: str) -> bool:
    """Tell whether there is such a provider."""
    try:
        registry.get(provider)
    except Invalid:
        return False
    return True


def counted(windows: Sequence[QuotaWindow]) -> tuple[QuotaWindow, ...]:
    """Return the windows that use adds up in; slots for calls in flight are given back."""
    return tuple(window for window in windows if window.shape != "concurrent")


def replaced(windows: Sequence[QuotaWindow], learned: QuotaWindow) -> tuple[QuotaWindow, ...]:
    """Return the windows with the learned one in the place of that of its length, or behind them."""
    same = [window for window in counted(windows) if window.seconds == learned.seconds]
    return (*(learned if window in same else window for window in windows), *(() if same else (learned,)))


def lowered(windows: Sequence[QuotaWindow], learned: QuotaWindow | None) -> tuple[QuotaWindow, ...]:
    """Return the windows that count for one owner: workers take what it taught only where that is less."""
    known = counted(windows)
    if learned is None or any(one.seconds == learned.seconds and one.limit <= learned.limit for one in known):
        return known
    return replaced(known, learned)


@dataclass(slots=True)
class Learned:
    """What usage teaches about one owner's bucket; `window` is absent until there is a reason to believe one."""

    window: QuotaWindow | None = None
    _reset: datetime | None = None
    _candidate: QuotaWindow | None = None
    _agreeing: set[int] = field(default_factory=set)

    def observe(self, usage: QuotaUsage, windows: Sequence[QuotaWindow]) -> None:
        """Take one report; `windows` are the limits in force."""
        known = counted(windows)
        if usage.estimate is not None:
            rate, believed = usage.estimate, self.window or next(iter(known), None)
            if believed is None or abs(rate - rate_of(believed)) > _SAME * rate_of(believed):
                self.window = QuotaWindow(limit=rate, seconds=1)
            return
        seen = self._seen(usage, known)
        if seen is None:
            return
        own = () if self.window is None else (self.window,)
        believed = next((window for window in (*own, *known) if window.seconds == seen.seconds), None)
        if believed is None or seen.limit < believed.limit * (1 - _SAME):
            self.window, self._candidate = seen, None
        elif seen.limit > believed.limit * (1 + _SAME):
            if self._candidate != seen:
                self._candidate, self._agreeing = seen, set()
            self._agreeing.add(int(usage.until.timestamp() // seen.seconds))
            if len(self._agreeing) >= CONSISTENT_WINDOWS:
                self.window, self._candidate = seen, None
        else:
            self._candidate = None

    def _seen(self, usage: QuotaUsage, known: Sequence[QuotaWindow]) -> QuotaWindow | None:
        """Return the window that headers show, with the length of the known one that it is."""
        distance = self._distance(usage)
        seconds = usage.seen_window_s or distance
        if not usage.seen_limit or seconds is None or not 1 <= seconds <= _LONGEST_WINDOW_S:
            return None
        if usage.seen_window_s is None:
            near = [window.seconds for window in known if abs(window.seconds - seconds) <= _ROUNDING_S]
            seconds = near[0] if near else seconds
        return QuotaWindow(limit=usage.seen_limit, seconds=seconds, shape="fixed")

    def _distance(self, usage: QuotaUsage) -> float | None:
        """Return the distance of two resets where no window can lie between them: the second one's had just begun."""
        reset, before = usage.seen_reset_at, self._reset
        if reset is None:
            return None
        self._reset = max(reset, before or reset)
        if before is None:
            return None
        seconds, began = (reset - before).total_seconds(), (usage.until - before).total_seconds()
        return seconds if seconds >= _SHORTEST_DISTANCE_S and 0 <= began < seconds / 2 else None


def rate_of(window: QuotaWindow) -> float:
    """Return a window's limit per second."""
    return window.limit / window.seconds
