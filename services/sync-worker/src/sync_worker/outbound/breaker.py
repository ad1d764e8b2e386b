"""The breakers of this worker alone: they stop it before the health monitor has decided, and nobody else.

One per (provider, operation, account), because a cooldown by account alone would block what still works
(sync-worker.md §4.1), and a quick one per route, for the moments until it is decided (docs/decisions/0030).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sync_worker.outbound.route_table import Place

# A trial that never reports back (its worker task was cancelled) must not shut the way for ever.
TRIAL_S: Final = 60.0

Where = TypeVar("Where", bound=tuple[str, ...])


@dataclass(frozen=True, slots=True)
class Rule:
    """A breaker opens after `failures` in a row, for `hold_s` that double with each failed trial up to `max_hold_s`."""

    failures: int
    hold_s: float
    max_hold_s: float


# Five failures in a row are 0.03 % likely at a failure rate of 20 %.
ACCOUNT: Final = Rule(failures=5, hold_s=5.0, max_hold_s=300.0)
# Two are no evidence, so it costs next to nothing to be wrong: a hold is as long as a decision takes, and any call in
# flight that succeeds ends it.
ROUTE: Final = Rule(failures=2, hold_s=0.4, max_hold_s=5.0)


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    trial_until: float = 0.0


class Breakers(Generic[Where]):
    """The breakers of one rule. `monotonic` gives seconds, `uniform` draws from an interval.

    `on_open` is called with a place whose breaker opens, and not again before it was closed.
    """

    def __init__(self, monotonic: Callable[[], float], uniform: Callable[[float, float], float], rule: Rule) -> None:
        self.on_open: Callable[[Where], None] = lambda _place: None
        self._rule = rule
        self._monotonic = monotonic
        self._uniform = uniform
        self._breakers: dict[Where, _Breaker] = {}

    def shut_for_s(self, place: Where) -> float:
        """Return 0 when a call may go, else the seconds to wait. An open breaker lets one trial through at a time."""
        breaker = self._breakers.get(place)
        if breaker is None or breaker.failures < self._rule.failures:
            return 0.0
        now = self._monotonic()
        if now < breaker.until:
            return breaker.until - now
        if now < breaker.trial_until:
            # Soon it will have said something.
            return min(breaker.trial_until - now, self._rule.hold_s)
        breaker.trial_until = now + TRIAL_S
        return 0.0

    def record(self, place: Where, *, failed: bool | None) -> None:
        """Note how a call ended; None says nothing about the provider, and frees the trial."""
        breaker = self._breakers.get(place)
        if failed is None:
            if breaker is not None:
                breaker.trial_until = 0.0
            return
        if not failed:
            self._breakers.pop(place, None)
            return
        if breaker is None:
            breaker = self._breakers[place] = _Breaker()
        breaker.failures += 1
        breaker.trial_until = 0.0
        if breaker.failures >= self._rule.failures:
            self._hold(place, breaker)

    def _hold(self, place: Where, breaker: _Breaker) -> None:
        """Open, or stay open for longer; only what was sent as a trial doubles the hold, not what was under way."""
        now = self._monotonic()
        if now >= breaker.until:
            breaker.opened += 1
        if breaker.failures == self._rule.failures:
            self.on_open(place)
        longest = min(self._rule.max_hold_s, self._rule.hold_s * 2 ** (breaker.opened - 1))
        breaker.until = max(breaker.until, now + longest * self._uniform(0.5, 1.0))


@dataclass(frozen=True, slots=True)
class WorkerBreakers:
    """The breakers of a worker: by (provider, operation, account), and by route."""

    account: Breakers[tuple[str, str, str]]
    route: Breakers[Place]

    @classmethod
    def build(cls, monotonic: Callable[[], float], uniform: Callable[[float, float], float]) -> WorkerBreakers:
        """Make them, all closed."""
        return cls(Breakers(monotonic, uniform, ACCOUNT), Breakers(monotonic, uniform, ROUTE))
