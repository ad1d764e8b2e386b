"""Who uses how much of one kind of bucket: a forecast per owner and counted window, and who must slow down for it.

Pure: whoever calls it names the instants, in seconds of one clock. Must never let one owner's use, or what its answers
taught, count for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from contracts.events.health import MAX_TRIMMED_OWNERS, CallClass, QuotaPolicy, QuotaWindow
from contracts.events.sync import QuotaUsage
from health_monitor.forecast import Forecast, WindowForecast
from health_monitor.limits import Learned, counted, lowered

Trim = dict[CallClass, float]

# Shorter windows are the limiter's alone: it paces them and keeps their reserves, and they are over before a trim is
# heard of. To trim a backlog that uses a rate to the full would only waste it.
SHORTEST_FORECAST_S: Final = 60.0
# Trims are told in steps, or each report would change them a little; and a step is kept until the next one is clearly
# nearer, or a trim that lies between two would be told as both in turn.
_TRIM_STEPS: Final = 10
_KEPT_WITHIN: Final = 0.75 / _TRIM_STEPS
# An owner that reports nothing is looked at this often, and less so the longer it is quiet: it may be one of thousands
# that a window of a day remembers. Workers report each second, so silence is no use at all.
_LOOK_S: Final = 5.0
_SELDOM_S: Final = 60.0
_SELDOM_PART: Final = 0.1
# Who takes over keeps the trims of owners that it has not heard of yet for this long.
_SETTLED_AFTER_S: Final = 60.0
_NOBODY: Final = "nobody has used it lately"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows for all owners; `at_end` and `reason` are about the worst one, `trim` is what each of them loses."""

    at_end: float = 0.0
    worst: str = ""
    trim: Trim = field(default_factory=dict)
    trims: dict[str, Trim] = field(default_factory=dict)
    reason: str = _NOBODY


class _Said(NamedTuple):
    window: QuotaWindow
    forecast: Forecast


@dataclass(slots=True)
class _Owner:
    """Use of one owner, in each of its windows."""

    heard_at: float
    looked_at: float = float("-inf")
    learned: Learned = field(default_factory=Learned)
    unread: Trim = field(default_factory=dict)
    forecasts: dict[tuple[str, float], WindowForecast] = field(default_factory=dict)
    worst: _Said | None = None
    trim: Trim = field(default_factory=dict)

    def look(self, windows: Sequence[QuotaWindow], now: float, *, news: bool) -> None:
        """Count what was reported since the last look, or none where nothing was, and forecast each window."""
        counts = news or self.is_due(now)
        forecasts: dict[tuple[str, float], WindowForecast] = {}
        told: list[_Said] = []
        for window in lowered(windows, self.learned.window):
            if window.seconds < SHORTEST_FORECAST_S:
                continue
            # From a full bucket a burst more than its rate may be used.
            limit = window.limit + (window.burst if window.shape == "gcra" else 0)
            place = (window.shape, window.seconds)
            forecast = self.forecasts.get(place) or WindowForecast(limit, window.seconds)
            # Another limit of the same window: what was used of it stays used.
            forecast.limit = limit
            if counts:
                forecast.observe(self.unread, now)
            forecasts[place] = forecast
            told.append(_Said(window, forecast.forecast(now)))
        if counts:
            self.unread, self.looked_at = {}, now
        self.forecasts = forecasts
        self.worst = max(told, key=lambda one: one.forecast.at_end, default=None)
        self.trim = _stepped([one.forecast.trim for one in told], self.trim)

    def is_due(self, now: float) -> bool:
        """Tell whether its silence has to be counted."""
        return now - self.looked_at >= min(_SELDOM_S, max(_LOOK_S, (now - self.heard_at) * _SELDOM_PART))

    @property
    def at_end(self) -> float:
        """The greatest forecast of its windows."""
        return self.worst.forecast.at_end if self.worst is not None else 0.0


class Spending:
    """All owners of one kind of bucket in one mode. `since` is when whoever asks began to see their reports."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._owners: dict[str, _Owner] = {}
        self._news: set[str] = set()
        self._counted: tuple[QuotaWindow, ...] = ()

    def take(self, usage: QuotaUsage, windows: Sequence[QuotaWindow], now: float) -> None:
        """Take one report; the next judgement counts it. `windows` are the limits in force."""
        owner = self._owners.setdefault(usage.owner, _Owner(now))
        owner.heard_at = now
        owner.learned.observe(usage, windows)
        for call_class, units in usage.used.items():
            owner.unread[call_class] = owner.unread.get(call_class, 0.0) + units
        self._news.add(usage.owner)

    def learned(self, owner: str) -> QuotaWindow | None:
        """Return the window that an owner's answers taught, if any."""
        known = self._owners.get(owner)
        return known.learned.window if known is not None else None

    def judge(self, windows: Sequence[QuotaWindow], now: float, before: QuotaPolicy | None = None) -> Judgement:
        """Say what follows from all reports under these limits; `before` is the policy in force.

        Owners that reported nothing for a whole window are forgotten.
        """
        others, self._counted = counted(windows) != self._counted, counted(windows)
        for name, owner in list(self._owners.items()):
            seconds = [window.seconds for window in lowered(self._counted, owner.learned.window)]
            if now - owner.heard_at > max(SHORTEST_FORECAST_S, *seconds, 0.0):
                del self._owners[name]
            elif others or name in self._news or owner.is_due(now):
                owner.look(self._counted, now, news=name in self._news)
        self._news.clear()
        return self._judgement(before if now - self._since < _SETTLED_AFTER_S else None)

    def _judgement(self, before: QuotaPolicy | None) -> Judgement:
        ranked = sorted(self._owners.items(), key=lambda one: (-one[1].at_end, one[0]))
        trims = {name: owner.trim for name, owner in ranked if owner.trim}
        if before is not None:
            trims |= {name: trim for name, trim in before.trims.items() if name not in self._owners}
        trims = dict(list(trims.items())[:MAX_TRIMMED_OWNERS])
        if not ranked:
            return Judgement(trims=trims, trim=before.trim if before is not None else {})
        name, worst = ranked[0]
        return Judgement(worst.at_end, name, _least([owner.trim for _, owner in ranked]), trims, _words(name, worst))


def _stepped(trims: Sequence[Trim], before: Trim) -> Trim:
    """Return the most that any window takes of each class, in steps."""
    found: Trim = {}
    for call_class in dict.fromkeys(call_class for trim in trims for call_class in trim):
        most, kept = max(trim.get(call_class, 0.0) for trim in trims), before.get(call_class, 0.0)
        steady = most < 1 and abs(most - kept) < _KEPT_WITHIN
        found[call_class] = kept if steady else round(most * _TRIM_STEPS) / _TRIM_STEPS
    return {call_class: part for call_class, part in found.items() if part > 0}


def _least(trims: Sequence[Trim]) -> Trim:
    """Return what all of them lose."""
    least = {call_class: min(one.get(call_class, 0.0) for one in trims) for call_class in trims[0]}
    return {call_class: part for call_class, part in least.items() if part > 0}


def _words(name: str, owner: _Owner) -> str:
    if owner.worst is None:
        return _NOBODY
    window, forecast = owner.worst
    whose = f"{name}, " if name else ""
    return f"{whose}{window.limit:g} in {window.seconds:g} s: {forecast.reason}"
