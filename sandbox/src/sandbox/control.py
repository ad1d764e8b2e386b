"""The sandbox's own API, `/_control/...`: effects, faults, deliveries, handshakes.

Unauthenticated: it must listen on loopback.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.http.problems import body_of, invalid, json_response, not_found, path_uuid
from contracts.errors import Invalid
from providers import registry
from sandbox.deliveries import DeliveryDesk
from sandbox.faults import Fault, FaultDesk
from sandbox.onboarding import Onboarding
from sandbox.orders import Endpoint, NewDelivery
from sandbox.world import World


class Control:
    """Handlers of the control routes."""

    def __init__(self, world: World, faults: FaultDesk, desk: DeliveryDesk, onboarding: Onboarding) -> None:
        self._world = world
        self._faults = faults
        self._desk = desk
        self._onboarding = onboarding

    async def effects(self, request: Request) -> Response:
        """List the effects that were applied, oldest first; `provider`, `account`, `subject`, `operation` filter."""
        wanted = {name: text for name, text in request.query_params.items() if name in _FILTERS}
        found = [one.as_dict() for one in self._world.effects if _matches(one, wanted)]
        return json_response({"items": found})

    async def list_faults(self, _request: Request) -> Response:
        """Show the faults that are set."""
        return json_response(
            {slug: [fault.model_dump() for fault in faults] for slug, faults in self._faults.current().items()}
        )

    async def set_fault(self, request: Request) -> Response:
        """Set a provider's fault, replacing earlier ones."""
        slug = _slug(request)
        fault = await body_of(request, Fault)
        self._faults.set(slug, fault)
        return json_response(fault.model_dump())

    async def add_fault(self, request: Request) -> Response:
        """Let a fault stand beside the provider's others: 201."""
        slug = _slug(request)
        fault = await body_of(request, Fault)
        self._faults.add(slug, fault)
        return json_response(fault.model_dump(), 201)

    async def clear_fault(self, request: Request) -> Response:
        """Make a provider work again. Idempotent."""
        self._faults.clear(_slug(request))
        return Response(status_code=204)

    async def deliver(self, request: Request) -> Response:
        """Send a webhook: 201 with its deliveries after their first attempts; 422 for what cannot be sent."""
        new = await body_of(request, NewDelivery)
        try:
            deliveries = await self._desk.send(new)
        except Invalid as error:
            raise invalid(error.field or "body", error.detail, error.code) from None
        return json_response({"items": [one.as_dict() for one in deliveries]}, 201)

    async def onboard(self, request: Request) -> Response:
        """Do a vendor's handshakes and probes: 200 with a check for each request; 422 for what cannot be asked."""
        new = await body_of(request, Endpoint)
        try:
            checks = await self._onboarding.run(new)
        except Invalid as error:
            raise invalid(error.field or "body", error.detail, error.code) from None
        return json_response(
            {"ok": not any(one.problems for one in checks), "items": [one.as_dict() for one in checks]}
        )

    async def list_standings(self, _request: Request) -> Response:
        """Show what vendors that punish think of the endpoints they have sent to."""
        return json_response({"items": [asdict(one) for one in self._desk.standings]})

    async def forgive(self, request: Request) -> Response:
        """Let vendors send to the endpoint in `url` again. Idempotent."""
        self._desk.forgive(request.query_params.get("url", ""))
        return Response(status_code=204)

    async def list_deliveries(self, request: Request) -> Response:
        """List the last deliveries, newest first; `provider` filters."""
        provider = request.query_params.get("provider")
        found = [one.as_dict() for one in reversed(self._desk.sent) if provider in (None, one.provider)]
        return json_response({"items": found})

    async def show_delivery(self, request: Request) -> Response:
        """Show one of the last deliveries."""
        wanted = path_uuid(request, "delivery_id")
        for one in self._desk.sent:
            if one.id == wanted:
                return json_response(one.as_dict())
        raise not_found("delivery")


_FILTERS = frozenset({"provider", "account", "subject", "operation"})


def routes(control: Control) -> list[BaseRoute]:
    """Return the control routes."""
    return [
        Route("/_control/effects", control.effects),
        Route("/_control/faults", control.list_faults),
        Route("/_control/faults/{slug}", control.set_fault, methods=["PUT"]),
        Route("/_control/faults/{slug}", control.add_fault, methods=["POST"]),
        Route("/_control/faults/{slug}", control.clear_fault, methods=["DELETE"]),
        Route("/_control/deliveries", control.deliver, methods=["POST"]),
        Route("/_control/deliveries", control.list_deliveries),
        Route("/_control/deliveries/{delivery_id}", control.show_delivery),
        Route("/_control/handshakes", control.onboard, methods=["POST"]),
        Route("/_control/standings", control.list_standings),
        Route("/_control/standings", control.forgive, methods=["DELETE"]),
    ]


def _slug(request: Request) -> str:
    slug: str = request.path_params["slug"]
    if slug not in registry.all_slugs():
        raise not_found("provider")
    return slug


def _matches(effect: Any, wanted: dict[str, str]) -> bool:
    return all(getattr(effect, name) == text for name, text in wanted.items())
