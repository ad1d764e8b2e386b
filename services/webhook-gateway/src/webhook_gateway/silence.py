"""When is a source silent that normally speaks? An expected-arrival model per endpoint, without I/O.

Arrivals are a Poisson process whose rate depends on the hour of the week and is itself uncertain (Gamma), so bursts
and short histories make it patient and nights teach it to wait. It alarms when the silence would, by that model, happen
less than `BUDGET` times a month (docs/decisions/). Must never alarm for an endpoint that it has known for less than two
weeks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

HOURS: Final = 168
HOUR: Final = timedelta(hours=1)
WEEK: Final = timedelta(days=7)
# Two weekends, so that a week's shape is seen twice before anything is said about it.
MIN_HISTORY: Final = 2 * WEEK
MIN_ARRIVALS: Final = 50
# How far back is learnt, and what a week counts less than the one after it: rhythms change with seasons.
MAX_HISTORY: Final = 8 * WEEK
FADE: Final = 0.85
# False alarms per endpoint and month; the promise is one, and a quarter of it is left for what the model gets wrong.
BUDGET: Final = 0.25
_WEEKS_PER_MONTH: Final = 365.25 / 12 / 7
_MONDAY: Final = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What an endpoint's weeks look like.

    `counts` and `weights` are faded arrivals and hours observed, by hour of the week from Monday 00:00 UTC.
    `dispersion` is how much more hourly counts vary than Poisson's do, at least 1: sources that send in bursts.
    """

    counts: tuple[float, ...]
    weights: tuple[float, ...]
    dispersion: float
    arrivals: int

    @property
    def per_month(self) -> float:
        """Expected arrivals in a month."""
        week = sum(c / w for c, w in zip(self.counts, self.weights, strict=True) if w)
        return week * _WEEKS_PER_MONTH

    @property
    def limit(self) -> float:
        """The surprise from which on a silence is an alarm.

        A month has as many gaps as bursts of arrivals; each is this long with a chance of exp(-limit), so the month's
        false alarms are their product, which is the budget.
        """
        return max(1.0, math.log(max(1.0, self.per_month / self.dispersion) / BUDGET))

    def surprise(self, last: datetime, now: datetime) -> float:
        """Return minus the logarithm of how likely no arrival is from `last` to `now`.

        With `c` arrivals seen in `w` weeks, the chance of none in the next one is (w / (w + 1)) ** c.
        """
        total = 0.0
        start = last
        # A silence of many weeks is as clear after the eighth.
        end = min(now, last + MAX_HISTORY)
        while start < end:
            hour = floor(start)
            until = min(end, hour + HOUR)
            place = _place(hour)
            if self.weights[place]:
                share = (until - start) / HOUR
                total += share * self.counts[place] * math.log1p(1 / self.weights[place])
            start = until
        return total / self.dispersion

    def silent(self, last: datetime, now: datetime) -> bool:
        """Tell whether nothing since `last` is an alarm at `now`."""
        return self.surprise(last, now) > self.limit

    def due(self, last: datetime) -> datetime | None:
        """Return the end of the first hour in which the silence since `last` becomes an alarm; None within 8 weeks."""
        at = floor(last) + HOUR
        while at <= last + MAX_HISTORY:
            if self.silent(last, at):
                return at
            at += HOUR
        return None


def learn(
    hours: Mapping[datetime, int], first: datetime, now: datetime, left_out: Iterable[tuple[datetime, datetime]] = ()
) -> Rhythm | None:
    """Return the rhythm of hourly counts since `first`, or None while too little is known.

    Hours without an entry had no arrivals. The current hour is not over and does not count. `left_out` are spans in
    which the source was silent by fault: learning them would make the next fault look normal.
    """
    begin, end = floor(max(first, now - MAX_HISTORY)), floor(now)
    arrivals = sum(hours.values())
    if end - floor(first) < MIN_HISTORY or arrivals < MIN_ARRIVALS:
        return None
    skipped = [(floor(start), stop) for start, stop in left_out]
    seen: list[tuple[int, float, int]] = []
    counts, weights = [0.0] * HOURS, [0.0] * HOURS
    hour = begin
    while hour < end:
        if not any(start <= hour < stop for start, stop in skipped):
            place, weight, count = _place(hour), FADE ** ((end - hour) // WEEK), hours.get(hour, 0)
            counts[place] += weight * count
            weights[place] += weight
            seen.append((place, weight, count))
        hour += HOUR
    return Rhythm(tuple(counts), tuple(weights), _dispersion(seen, counts, weights), arrivals)


def floor(instant: datetime) -> datetime:
    """Return the start of an instant's hour in UTC."""
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _place(hour: datetime) -> int:
    return int((hour - _MONDAY) / HOUR) % HOURS


def _dispersion(seen: list[tuple[int, float, int]], counts: list[float], weights: list[float]) -> float:
    """Return the variance of hourly counts over their mean, each hour judged by the other weeks' counts of that hour.

    Sums before the ratio, so that hours which expect nearly nothing do not dominate.
    """
    squares = expected = 0.0
    for place, weight, count in seen:
        others = weights[place] - weight
        if others <= 0:
            continue
        mean = (counts[place] - weight * count) / others
        # The mean of few weeks is itself uncertain, which is not the source's doing.
        squares += (count - mean) ** 2 / (1 + 1 / others)
        expected += mean
    return max(1.0, squares / expected) if expected > 0 else 1.0
