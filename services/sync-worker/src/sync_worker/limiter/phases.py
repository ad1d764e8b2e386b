"""Where a provider's fixed windows turn, learned from its answers: our windows then begin when the provider's do. Pure.

Two kinds of evidence. An answer names the seconds to its reset, mostly whole ones, rounded somehow. And the units left
jump up between two answers: the window turned while they were under way. Must never be surer than the evidence: what is
told is an interval, and the store counts what falls into it for both windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

# A reset in whole seconds may be rounded up or down, and one that is an instant suffers from both clocks.
RESET_ERROR_S: Final = 1.0
# Our idea of the store's clock is this good.
CLOCK_ERROR_S: Final = 0.005
# An interval that takes more of its window than this would cost more throughput than it saves refusals.
MOST_OF_WINDOW: Final = 0.25
# Fewer units than this part of the limit come back in other ways, too: answers overtake each other, buckets leak.
JUMP_PART: Final = 0.2
# The longest way that was seen is forgotten by a hundredth per answer.
_WAY_FADES: Final = 0.99
# An interval is told again when it has become this much narrower.
_NARROWER: Final = 0.75


@dataclass(frozen=True, slots=True)
class TurnSeen:
    """One turn, between two instants in monotonic seconds; `way_s` is how long a call may be under way."""

    earliest: float
    latest: float
    way_s: float


class WindowPhase:
    """One window of one bucket, as this worker's answers show it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._way_s = 0.0
        self._last: tuple[float, float] | None = None  # units left, and when the call was sent
        self._known: tuple[float, float] | None = None
        self._jumped = False
        self._told: tuple[float, float] | None = None

    def observe(
        self, limit: float, remaining: float | None, reset_s: float | None, sent_at: float, now: float
    ) -> TurnSeen | None:
        """Take one answer that was asked for at `sent_at` and came at `now`; return a turn worth telling, else None."""
        self._way_s = max(now - sent_at, self._way_s * _WAY_FADES)
        jump = self._jump(limit, remaining, sent_at, now)
        if jump is not None:
            self._take(*jump)
            self._jumped = True
        elif reset_s is not None and not self._jumped and reset_s <= self._seconds + RESET_ERROR_S:
            self._take(sent_at + reset_s - RESET_ERROR_S, now + reset_s + RESET_ERROR_S)
        return self._worth_telling()

    def _jump(self, limit: float, remaining: float | None, sent_at: float, now: float) -> tuple[float, float] | None:
        """Return when the window turned, if the units left show that it did since the last answer."""
        if remaining is None:
            return None
        last, self._last = self._last, (remaining, sent_at)
        if last is None or remaining - last[0] < max(2.0, JUMP_PART * limit) or now - last[1] >= self._seconds:
            return None
        return last[1], now

    def _take(self, earliest: float, latest: float) -> None:
        earliest, latest = earliest - CLOCK_ERROR_S, latest + CLOCK_ERROR_S
        if self._known is not None:
            known = _moved(self._known, latest, self._seconds)
            if max(earliest, known[0]) <= min(latest, known[1]):
                earliest, latest = max(earliest, known[0]), min(latest, known[1])
        self._known = (earliest, latest)

    def _worth_telling(self) -> TurnSeen | None:
        if self._known is None:
            return None
        earliest, latest = self._known
        if latest - earliest + self._way_s > MOST_OF_WINDOW * self._seconds:
            return None
        if self._told is not None:
            told = _moved(self._told, latest, self._seconds)
            within = told[0] <= earliest and latest <= told[1]
            if within and latest - earliest > _NARROWER * (told[1] - told[0]):
                return None
        self._told = self._known
        return TurnSeen(earliest, latest, self._way_s)


def _moved(interval: tuple[float, float], near: float, seconds: float) -> tuple[float, float]:
    """Return an interval moved by whole windows to where its end is nearest to an instant."""
    by = math.floor((near - interval[1]) / seconds + 0.5) * seconds
    return interval[0] + by, interval[1] + by
