"""The rules that turn outcomes of calls into the state of a route; pure, and every decision says why.

A first simple detector: it counts. It must never see time pass by itself or depend on who calls it, so that the same
outcomes always give the same decisions. Rules and states: health-monitor.md §4.4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from contracts.events.health import RouteState
from contracts.events.sync import Outcome

# Five failures in a row are 0.03 % likely at a failure rate of 20 %, and take half a second at 10 calls/s.
FAILS_IN_A_ROW: Final = 5
WINDOW: Final = 20
# Below ten calls a ratio says little: 5 of 9 is within the noise of 25 %.
MIN_CALLS: Final = 10
DOWN_PERCENT: Final = 50
DEGRADED_PERCENT: Final = 20
# Half of the entry limit: a provider at exactly 20 % must not flap.
CLEARED_PERCENT: Final = 10
GOOD_PROBES: Final = 3
# What a sequential test needs to prefer "healthy" to "half of the calls fail" at 1 % error (health-monitor.md §4.4).
CLEAN_CALLS: Final = 7
# After this many equal outcomes the track no longer changes, whatever it was before.
_SETTLED_AFTER: Final = WINDOW + GOOD_PROBES + CLEAN_CALLS

SHARES: Final[dict[RouteState, int]] = {
    RouteState.UNKNOWN: 100,
    RouteState.HEALTHY: 100,
    RouteState.DEGRADED: 50,
    RouteState.DOWN: 0,
    RouteState.RECOVERING: 25,
}


class Verdict(StrEnum):
    """What one call says about its provider."""

    GOOD = "good"
    BAD = "bad"
    SILENT = "silent"


# A client error is our own fault and throttling is a quota: neither speaks for or against the provider's health.
VERDICTS: Final[dict[Outcome, Verdict]] = {
    "success": Verdict.GOOD,
    "client_error": Verdict.SILENT,
    "throttled": Verdict.SILENT,
    "server_error": Verdict.BAD,
    "timeout": Verdict.BAD,
    "connect_error": Verdict.BAD,
}


@dataclass(frozen=True, slots=True)
class Run:
    """`count` calls in a row with one outcome. Probes and real calls are equal evidence."""

    outcome: Outcome
    count: int = 1


@dataclass(frozen=True, slots=True)
class Track:
    """What the detector remembers of one route.

    `recent` are the last calls since the state was entered afresh, oldest first, True for a failure; `fails` and
    `goods` count the calls in a row that failed or succeeded.
    """

    state: RouteState = RouteState.UNKNOWN
    recent: tuple[bool, ...] = ()
    fails: int = 0
    goods: int = 0


@dataclass(frozen=True, slots=True)
class Transition:
    """One decision: from one state to another, and the numbers that led to it."""

    before: RouteState
    after: RouteState
    reason: str
    decided_at: datetime
    share: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "share", SHARES[self.after])


def observe(track: Track, runs: Iterable[Run], now: datetime) -> tuple[Track, list[Transition]]:
    """Return the track after `runs`, which are in order, and the decisions taken on the way, `now` being their time."""
    decided: list[Transition] = []
    for run in runs:
        verdict = VERDICTS[run.outcome]
        if verdict is Verdict.SILENT:
            continue
        for _ in range(min(run.count, _SETTLED_AFTER)):
            track = _counted(track, failed=verdict is Verdict.BAD)
            after, reason = _decide(track, run.outcome)
            if after is not track.state:
                decided.append(Transition(track.state, after, reason, now))
                track = _entered(track, after)
    return track, decided


def _counted(track: Track, *, failed: bool) -> Track:
    return replace(
        track,
        recent=(*track.recent, failed)[-WINDOW:],
        fails=min(track.fails + 1, WINDOW) if failed else 0,
        goods=0 if failed else min(track.goods + 1, WINDOW),
    )


def _entered(track: Track, state: RouteState) -> Track:
    """Start a state; going down and coming back each begin with a clean slate, or old failures would count twice."""
    if state in (RouteState.DOWN, RouteState.RECOVERING):
        return Track(state=state)
    return replace(track, state=state)


def _decide(track: Track, outcome: Outcome) -> tuple[RouteState, str]:
    """Return the state that the track calls for, and why."""
    if track.state is RouteState.DOWN:
        if track.goods >= GOOD_PROBES:
            return RouteState.RECOVERING, f"{track.goods} good probes in a row"
        return RouteState.DOWN, ""
    if track.state is RouteState.RECOVERING:
        if track.fails:
            return RouteState.DOWN, f"a call failed while recovering ({outcome})"
        if track.goods >= CLEAN_CALLS:
            return RouteState.HEALTHY, f"{track.goods} clean calls in a row while recovering"
        return RouteState.RECOVERING, ""
    return _decide_in_service(track, outcome)


def _decide_in_service(track: Track, outcome: Outcome) -> tuple[RouteState, str]:
    failed, calls = sum(track.recent), len(track.recent)
    told = f"{failed} of the last {calls} calls failed"
    if track.fails >= FAILS_IN_A_ROW:
        return RouteState.DOWN, f"{track.fails} failures in a row (last: {outcome})"
    if calls >= MIN_CALLS and failed * 100 >= DOWN_PERCENT * calls:
        return RouteState.DOWN, f"{told} (last: {outcome})"
    if calls >= MIN_CALLS and failed * 100 >= DEGRADED_PERCENT * calls:
        return RouteState.DEGRADED, f"{told} (last: {outcome})"
    if track.state is RouteState.DEGRADED and failed * 100 < CLEARED_PERCENT * calls:
        return RouteState.HEALTHY, told
    if track.state is RouteState.UNKNOWN and track.goods:
        return RouteState.HEALTHY, "the first call succeeded" if calls == 1 else told
    return track.state, ""
