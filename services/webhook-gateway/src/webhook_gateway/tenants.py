"""Whose delivery it is: one endpoint of a network may serve many of its locations.

Must never let anything but the body name a tenant: signatures rarely cover headers (gateway.md §3.3).
"""

from __future__ import annotations

from typing import Final

from contracts.errors import Invalid
from providers.reading import at, parse_json
from providers.sdk import WebhookItem
from webhook_gateway.endpoints import Endpoint

_BODY: Final = "body:"


def tenant_of(endpoint: Endpoint, item: WebhookItem) -> str:
    """Return the tenant that the endpoint's routes name for this event, else the endpoint's own."""
    configured = endpoint.configured
    routes = configured.tenant_routes
    if routes is None or not routes.source.startswith(_BODY):
        return configured.tenant
    try:
        value = at(parse_json(item.data), routes.source.removeprefix(_BODY))
    except Invalid:
        return configured.tenant
    return routes.accounts.get(str(value), configured.tenant)
