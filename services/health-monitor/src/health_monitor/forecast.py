"""Will a quota last until its window ends? A forecast of use per class, and which classes must slow down for it.

Pure: must never read a clock or a store; whoever calls it names the instants.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from contracts.events.health import CallClass

# Parts of the limit (health-monitor.md §4.7).
ALERT_FROM: Final = 0.80
TRIM_INTERACTIVE_FROM: Final = 0.95
CRITICAL_ONLY_FROM: Final = 0.98
# Level and trend of use are exponential averages in which the newest eighth of a window (`pace`) has this weight: they
# are over about a third of one. A busy second is no busy minute, a night's import not what the whole day will be.
WEIGHT: Final = 0.3
PACES: Final = 8


@dataclass(slots=True)
class Use:
    """Level and trend of a rate in units a second. It begins with none: what just began is not yet what goes on.

    Unlike in Holt's method the trend is not part of the level, and is believed for one pace: steady use of 75 % that
    begins now would be forecast as 106 %.
    """

    pace: float = 1.0
    level: float = 0.0
    trend: float = 0.0

    def observe(self, rate: float, seconds: float) -> None:
        """Take the mean rate of the last `seconds`."""
        if seconds <= 0:
            return
        before, keep = self.level, (1 - WEIGHT) ** (seconds / self.pace)
        self.level = (1 - keep) * rate + keep * before
        self.trend = (1 - keep) * (self.level - before) / seconds + keep * self.trend

    def ahead(self, seconds: float) -> float:
        """Return the units expected in the next `seconds`; never less than none."""
        if seconds <= 0:
            return 0.0
        rising_s = min(seconds, self.pace)
        level_then = max(0.0, self.level + self.trend * rising_s)
        return (self.level + level_then) / 2 * rising_s + level_then * (seconds - rising_s)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Use now and at the end of the window, `left_s` seconds from now, as parts of the limit; what each class loses."""

    used: float
    at_end: float
    left_s: float
    trim: dict[CallClass, float]

    @property
    def alert(self) -> bool:
        """Whether somebody should know."""
        return self.at_end > ALERT_FROM

    @property
    def reason(self) -> str:
        """Why, in words; made when it is asked for, because most forecasts are never read."""
        if self.used >= CRITICAL_ONLY_FROM:
            return f"{self.used:.0%} of the quota is used: only critical calls pass for {self.left_s:.0f} s"
        said = (
            f"{self.used:.0%} of the quota is used and {self.at_end:.0%} expected at the end of the window in "
            f"{self.left_s:.0f} s"
        )
        if not self.trim:
            return said
        cuts = " and ".join(
            f"{call_class} calls lose {part:.0%} of their rate" for call_class, part in self.trim.items()
        )
        return f"{said}: {cuts}"


@dataclass(slots=True)
class WindowForecast:
    """Forecast of one bucket's window of `limit` units in `seconds`. Times are seconds of one clock."""

    limit: float
    seconds: float
    used: dict[CallClass, float] = field(default_factory=dict)
    _rates: dict[CallClass, Use] = field(default_factory=dict)
    _index: int = -1
    _seen_at: float | None = None

    def observe(self, used: dict[CallClass, float], now: float) -> None:
        """Add what all workers used since the last call; a new window starts with an empty count."""
        index = int(now // self.seconds)
        if index != self._index:
            self._index, self.used = index, {}
        elapsed = 1.0 if self._seen_at is None else now - self._seen_at
        self._seen_at = now
        for call_class in used.keys() | self._rates.keys():
            units = used.get(call_class, 0.0)
            self.used[call_class] = self.used.get(call_class, 0.0) + units
            if elapsed > 0:
                self._rates.setdefault(call_class, Use(self.seconds / PACES)).observe(units / elapsed, elapsed)

    def forecast(self, now: float) -> Forecast:
        """Say how the window will end if nobody slows down, and what must be taken from whom so that it lasts."""
        left_s = max(0.0, (int(now // self.seconds) + 1) * self.seconds - now)
        current = self.used if int(now // self.seconds) == self._index else {}
        used = sum(current.values()) / self.limit
        expected = {call_class: rate.ahead(left_s) / self.limit for call_class, rate in self._rates.items()}
        at_end = used + sum(expected.values())
        if used >= CRITICAL_ONLY_FROM:
            return Forecast(used, at_end, left_s, {"interactive": 1.0, "probe": 1.0, "bulk": 1.0})
        trim: dict[CallClass, float] = {}
        bulk = _ramp(at_end, ALERT_FROM, 1.0)
        if bulk > 0:
            trim["bulk"] = bulk
        # What bulk loses need not be taken from anybody else: a morning's bulk would stop people until night.
        rest = at_end - bulk * expected.get("bulk", 0.0)
        interactive = _ramp(rest, TRIM_INTERACTIVE_FROM, 1.0 + TRIM_INTERACTIVE_FROM - ALERT_FROM)
        if interactive > 0:
            trim["interactive"] = interactive
        return Forecast(used, at_end, left_s, trim)


def _ramp(value: float, start: float, full: float) -> float:
    """Return 0 up to `start`, 1 from `full` on, and a straight line between them."""
    return round(min(1.0, max(0.0, (value - start) / (full - start))), 4)
