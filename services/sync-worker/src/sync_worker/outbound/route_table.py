"""Routes in memory, fed by `health.routes.v1`: whether a provider may be called for a capability right now."""

from __future__ import annotations

from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import RouteChanged, RouteState

log = logger(__name__)


class RouteTable:
    """The newest route per (provider, capability). Without one, a provider is taken to work."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], RouteChanged] = {}

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record; one whose epoch is not greater than the known one is dropped (a fenced owner's)."""
        if envelope is None:
            return
        route = decode(RouteChanged, envelope.data)
        place = (route.provider, route.capability)
        known = self._routes.get(place)
        if known is None or route.epoch > known.epoch:
            self._routes[place] = route
            log.info("route_changed", provider=route.provider, capability=route.capability, state=route.state)

    def is_shut(self, provider: str, capability: str) -> bool:
        """Tell whether business calls must wait: the provider is down, and only probes may try it."""
        route = self._routes.get((provider, capability))
        return route is not None and route.state is RouteState.DOWN

    def epoch(self, provider: str, capability: str) -> tuple[int, int]:
        """Return the epoch that calls are made under; (0, 0) before any decision."""
        route = self._routes.get((provider, capability))
        return route.epoch if route else (0, 0)

    def troubled(self) -> list[tuple[str, str]]:
        """Return the (provider, capability) pairs that need probes to recover."""
        states = (RouteState.DOWN, RouteState.RECOVERING, RouteState.DEGRADED)
        return [place for place, route in self._routes.items() if route.state in states]
