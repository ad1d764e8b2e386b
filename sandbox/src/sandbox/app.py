"""The sandbox put together: control routes, key servers, simulated APIs, probes and metrics in one ASGI app."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.http.server import build_app
from sandbox.api import ProviderApis
from sandbox.catalogue import load
from sandbox.control import Control, routes
from sandbox.deliveries import DeliveryDesk
from sandbox.faults import FaultDesk
from sandbox.oauth import OAuthServer
from sandbox.oauth import routes as oauth_routes
from sandbox.onboarding import Onboarding
from sandbox.settings import Settings
from sandbox.vendor_keys import VendorKeys
from sandbox.vendor_keys import routes as key_routes
from sandbox.world import World


class Sandbox:
    """One sandbox. `app` serves it; call `close` when it is no longer served."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.world = World(clock)
        self.faults = FaultDesk(clock.monotonic)
        self.keys = VendorKeys()
        self.oauth = OAuthServer(clock)
        self.desk = DeliveryDesk(self.world, clock, self.keys, settings.allowed_hosts)
        self.apis = load(self.world, self.oauth)
        self.app = self._build(clock)

    def _build(self, clock: Clock) -> Starlette:
        apis = ProviderApis(self.apis, self.faults, clock)
        # A class instance as endpoint is a bare ASGI app; every method belongs to the simulated API.
        before: list[BaseRoute] = [*key_routes(self.keys), *oauth_routes(self.oauth)]
        everything = [*before, Route("/{slug}/{path:path}", apis)]
        onboarding = Onboarding(self.desk, self.keys, clock)
        app = build_app(routes(Control(self.world, self.faults, self.desk, onboarding)), live=list, ready=list)
        app.router.routes.extend(everything)
        return app

    async def close(self) -> None:
        """Drop what is on its way."""
        await self.desk.close()
