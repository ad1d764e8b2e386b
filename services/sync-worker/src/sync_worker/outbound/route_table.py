"""Routes in memory, fed by `health.routes.v1` and its mirror: whether a provider may be called right now.

Must never go back to an older decision, whichever of the two ways brings it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import RouteChanged, RouteState
from contracts.modes import Mode

log = logger(__name__)

SHUT_RETRY_S: Final = 5.0
# A call that is not among the share is offered again soon: the next one may be.
SHARED_RETRY_S: Final = 1.0
_ALL: Final = 100
_SHUT: Final = (RouteState.DOWN, RouteState.FORCED_DOWN, RouteState.MAINTENANCE)


class Place(NamedTuple):
    """What a route is: one provider for one capability, in one mode."""

    provider: str
    capability: str
    mode: Mode = "live"


Eagerness = Literal["idle", "burst", "canary"]
"""How often the health monitor wants a route to be probed."""


@dataclass(frozen=True, slots=True)
class Shut:
    """A route that a call may not take now: why, and when to ask again."""

    reason: str
    retry_after_s: float


class RouteTable:
    """The newest route per (provider, capability, mode). Without one, a provider is taken to work."""

    def __init__(self) -> None:
        self._routes: dict[Place, RouteChanged] = {}
        self._credit: dict[Place, int] = {}
        self.on_change: Callable[[Place, Eagerness], None] = lambda _place, _probe: None

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of the topic; an older epoch than the one known is dropped."""
        if envelope is not None:
            self.put(decode(RouteChanged, envelope.data))

    def put(self, route: RouteChanged) -> None:
        """Take a route from wherever it comes; an older epoch than the one known is dropped."""
        place = Place(route.provider, route.capability, route.mode)
        known = self._routes.get(place)
        if known is None or route.epoch > known.epoch:
            self._routes[place] = route
            self._credit.pop(place, None)
            self.on_change(place, route.probe)
            log.info("route_changed", **place._asdict(), state=route.state)

    def admit(self, place: Place, *, repeatable: bool) -> Shut | None:
        """Return None when a call may take the route, else why not.

        Of a share of 25 % every fourth call passes, counted, not drawn. While a provider returns, the first step is for
        calls that may be repeated safely.
        """
        route = self._routes.get(place)
        if route is None or route.share >= _ALL:
            return None
        name = place.provider if place.mode == "live" else f"{place.provider} ({place.mode})"
        if route.share == 0 or route.state in _SHUT:
            return Shut(f"{name} is {route.state} for {place.capability}: {route.reason}", SHUT_RETRY_S)
        if route.idempotent_only and not repeatable:
            return Shut(f"{name} returns; first with what may be repeated", SHARED_RETRY_S)
        credit = self._credit.get(place, _ALL - route.share) + route.share
        self._credit[place] = credit % _ALL if credit >= _ALL else credit
        if credit >= _ALL:
            return None
        return Shut(f"{name} takes {route.share} % of its calls", SHARED_RETRY_S)

    def preferred(self, providers: Sequence[str], capability: str, mode: Mode) -> list[str]:
        """Return providers in the order in which a new call should try them: by the route's order, open ones first."""
        known = {slug: route for slug in providers if (route := self._routes.get(Place(slug, capability, mode)))}
        order = max(known.values(), key=lambda route: route.epoch).order if known else ()
        ranks = {slug: rank for rank, slug in enumerate(order)}

        def rank(slug: str) -> tuple[bool, int, int, str]:
            route = known.get(slug)
            share = route.shares.get(slug, route.share) if route else _ALL
            return (share == 0, ranks.get(slug, len(ranks)), -share, slug)

        return sorted(providers, key=rank)

    def epoch(self, place: Place) -> tuple[int, int]:
        """Return the epoch that calls are made under; (0, 0) before any decision."""
        route = self._routes.get(place)
        return route.epoch if route else (0, 0)

    def known(self) -> dict[Place, RouteChanged]:
        """Return all routes."""
        return dict(self._routes)
