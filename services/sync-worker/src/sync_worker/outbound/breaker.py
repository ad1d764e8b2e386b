"""The breaker of this worker alone: it stops calling before the health monitor has decided, and for nobody else.

One per (provider, operation, account), because a cooldown by account alone would block what still works
(sync-worker.md §4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Five failures in a row are 0.03 % likely at a failure rate of 20 %.
FAILURES: Final = 5
HOLD_S: Final = 5.0
MAX_HOLD_S: Final = 300.0
# A trial that never reports back (its worker task was cancelled) must not shut the way for ever.
TRIAL_S: Final = 60.0

Place = tuple[str, str, str]


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    opened: int = 0
    until: float = 0.0
    trial_until: float = 0.0


class Breakers:
    """All breakers of a worker. `now` are seconds of a monotonic clock, `uniform` draws from an interval."""

    def __init__(self, monotonic: Callable[[], float], uniform: Callable[[float, float], float]) -> None:
        self._monotonic = monotonic
        self._uniform = uniform
        self._breakers: dict[Place, _Breaker] = {}

    def shut_for_s(self, place: Place) -> float:
        """Return 0 when a call may go, else the seconds to wait. An open breaker lets one trial through at a time."""
        breaker = self._breakers.get(place)
        if breaker is None or breaker.failures < FAILURES:
            return 0.0
        now = self._monotonic()
        if now < breaker.until:
            return breaker.until - now
        if now < breaker.trial_until:
            return breaker.trial_until - now
        breaker.trial_until = now + TRIAL_S
        return 0.0

    def record(self, place: Place, *, failed: bool | None) -> None:
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
        if breaker.failures >= FAILURES:
            hold = min(MAX_HOLD_S, HOLD_S * 2**breaker.opened) * self._uniform(0.5, 1.0)
            # A failure while it is open extends the deadline; it never shortens it.
            breaker.until = max(breaker.until, self._monotonic() + hold)
            breaker.opened += 1
