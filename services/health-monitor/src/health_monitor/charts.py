"""One Bernoulli CUSUM chart that knows whose calls moved it; pure and without a clock."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from health_monitor.thresholds import steps

Source = tuple[str, str]
"""(tenant, credential)"""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose call it was, and which worker saw it."""

    worker: str
    tenant: str
    credential: str

    @property
    def source(self) -> Source:
        """The tenant and credential."""
        return self.tenant, self.credential


@dataclass(slots=True)
class Chart:
    """A chart of p0 against p1 with threshold h: S rises by ln(p1/p0) per failure and sinks towards zero otherwise.

    `by_source` and `by_worker` count the failures since S was last zero: what the hygiene of §4.2 needs at a trip.
    """

    p0: float
    p1: float
    h: float
    score: float = 0.0
    by_source: Counter[Source] = field(default_factory=Counter)
    by_worker: Counter[str] = field(default_factory=Counter)
    _up: float = field(init=False)
    _down: float = field(init=False)

    def __post_init__(self) -> None:
        self._up, self._down = steps(self.p0, self.p1)

    def retune(self, p0: float, h: float) -> None:
        """Judge by another baseline and threshold from now on; the score stays."""
        self.h = h
        if p0 != self.p0:
            self.p0 = p0
            self._up, self._down = steps(p0, self.p1)

    def failed(self, origin: Origin, step: float | None = None) -> None:
        """Take one failure; `step` is what it tells when that is less than ln(p1/p0)."""
        self.score += self._up if step is None else step
        self.by_source[origin.source] += 1
        self.by_worker[origin.worker] += 1

    def passed(self, count: int = 1) -> None:
        """Take `count` successes in a row."""
        if self.score:
            self.score = max(0.0, self.score - count * self._down)
            self._forget_at_zero()

    def retracted(self, origin: Origin) -> None:
        """Take back one failure that was none after all: a whole step, however little it told when it came."""
        self.score = max(0.0, self.score - self._up)
        for counts, name in ((self.by_source, origin.source), (self.by_worker, origin.worker)):
            counts.subtract([name])  # type: ignore[list-item]  # each counter with its own kind of name
        self._forget_at_zero()

    def lower(self, score: float) -> None:
        """Set the score down to `score`, if it is above."""
        self.score = min(self.score, score)
        self._forget_at_zero()

    def reset(self) -> None:
        """Start afresh."""
        self.lower(0.0)

    @property
    def tripped(self) -> bool:
        """Whether the score is above h."""
        return self.score > self.h

    @property
    def suspicious(self) -> bool:
        """Whether the score is above half of h."""
        return self.score > self.h / 2

    @property
    def failures(self) -> int:
        """The failures since the score was last zero."""
        return sum(self.by_source.values())

    def _forget_at_zero(self) -> None:
        if not self.score:
            self.by_source.clear()
            self.by_worker.clear()


@dataclass(slots=True)
class Sprt:
    """Wald's sequential test of p0 against p1 at 1 %: unlike a chart it has no floor, so it can also accept p0."""

    p0: float
    p1: float
    score: float = 0.0

    LIMIT = math.log(100)

    def failed(self) -> None:
        """Take one failure."""
        self.score += steps(self.p0, self.p1)[0]

    def passed(self) -> None:
        """Take one success."""
        self.score -= steps(self.p0, self.p1)[1]

    @property
    def accepted(self) -> bool:
        """Whether p0 is shown: S <= ln 0.01."""
        return self.score <= -self.LIMIT

    @property
    def rejected(self) -> bool:
        """Whether p1 is shown: S >= ln 100, with room for rounding, since at p0 = 0.5 % one failure is exactly that."""
        return self.score >= self.LIMIT - 1e-9
