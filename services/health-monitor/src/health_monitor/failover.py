"""Where a capability's calls go: its providers in order, the shares that each should have, and what they can take.

Pure. Calls that belong to one provider (pinned) do not follow shares. Must never send what a provider may not take to
one that is not HEALTHY or has no quota, unless an operator or an outage of all leaves no other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from contracts.events.health import RouteState

WINDOW_S: Final = 60.0
GUARDED_RATIO: Final = 0.5
# Worse states are taken only when nothing better is left.
_SEVERITY: Final = {
    state: rank
    for rank, state in enumerate(
        (
            RouteState.FORCED_UP,
            RouteState.HEALTHY,
            RouteState.SUSPECT,
            RouteState.UNKNOWN,
            RouteState.RECOVERING,
            RouteState.DEGRADED,
            RouteState.DOWN,
        )
    )
}
_BY_OPERATOR: Final = frozenset({RouteState.MAINTENANCE, RouteState.FORCED_DOWN})
_FIT: Final = frozenset({RouteState.HEALTHY, RouteState.FORCED_UP})


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operator wants for a capability: `order` by preference, `shares` in percent (empty: all to the first)."""

    order: tuple[str, ...] = ()
    shares: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a provider stands: its state, the percentage of calls that the state allows, and its recent failure ratio."""

    state: RouteState
    share: int
    failed_ratio: float = 0.0


def order_of(plan: Plan, seen: Sequence[str]) -> tuple[str, ...]:
    """Return the providers of a capability: the planned ones first, others that were seen behind them by name."""
    return (*plan.order, *sorted(set(seen) - set(plan.order)))


def shares(
    plan: Plan, standings: Mapping[str, Standing], has_quota: Callable[[str], bool] = lambda _: True
) -> dict[str, int]:
    """Return the percentage of free calls for each provider; they add up to what the plan gives out.

    What a provider may not take moves to the next HEALTHY one in order with quota; without one it stays where it was,
    and if nothing at all may be taken, it goes to the least bad.
    """
    order = order_of(plan, list(standings))
    given = dict.fromkeys(order, 0)
    for provider, wanted in _wanted(plan, order).items():
        known = standings.get(provider, Standing(RouteState.UNKNOWN, 100))
        kept = round(wanted * known.share / 100)
        given[provider] += kept
        if kept < wanted:
            given[_taker(order, provider, standings, has_quota)] += wanted - kept
    return given


def _wanted(plan: Plan, order: Sequence[str]) -> dict[str, int]:
    if plan.shares:
        return {provider: plan.shares.get(provider, 0) for provider in order}
    return {provider: 100 if place == 0 else 0 for place, provider in enumerate(order)}


def _taker(
    order: Sequence[str], leaving: str, standings: Mapping[str, Standing], has_quota: Callable[[str], bool]
) -> str:
    """Return who takes what `leaving` may not: the next fit one in order, wrapping around; else by guarantee 3."""
    at = order.index(leaving)
    others = [name for name in (*order[at + 1 :], *order[:at]) if name in standings]
    for name in others:
        if standings[name].state in _FIT and has_quota(name):
            return name
    candidates = [name for name in (leaving, *others) if standings[name].state not in _BY_OPERATOR]
    if leaving in candidates and any(standings[name].state is not RouteState.DOWN for name in candidates):
        return leaving

    def badness(name: str) -> tuple[int, float, int]:
        known = standings[name]
        return _SEVERITY[known.state], known.failed_ratio, order.index(name)

    return min(candidates, key=badness, default=leaving)


class PanicGuard:
    """Lets at most half of the known providers be shut within 60 s; an operator's clearance starts the count again."""

    def __init__(self) -> None:
        self._shut: deque[tuple[float, str]] = deque()

    def objection(self, provider: str, known: int, now: float) -> str | None:
        """Return why `provider` may not be shut now, `known` being the number of providers; None when it may.

        One provider may always go: with a single one there is nothing that panic could spread to.
        """
        lately = self._lately(now) | {provider}
        if len(lately) > max(1, int(known * GUARDED_RATIO)):
            return f"panic guard: {len(lately) - 1} of {known} providers were shut within {WINDOW_S:.0f} s"
        return None

    def shut(self, provider: str, now: float) -> None:
        """Note that a provider was shut."""
        self._shut.append((now, provider))

    def clear(self) -> None:
        """Forget what was shut."""
        self._shut.clear()

    def _lately(self, now: float) -> set[str]:
        while self._shut and now - self._shut[0][0] > WINDOW_S:
            self._shut.popleft()
        return {provider for _, provider in self._shut}
