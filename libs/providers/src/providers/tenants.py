"""Whose delivery it is: one endpoint of a network may serve many of its locations. Pure.

Must never let anything but the body name a tenant: signatures rarely cover headers (gateway.md §3.3).
"""

from __future__ import annotations

from typing import Final

from contracts.errors import Invalid
from contracts.events.sync import TenantRoutes
from providers.reading import at, parse_json
from providers.sdk import WebhookItem

_BODY: Final = "body:"


def tenant_of(own: str, routes: TenantRoutes | None, item: WebhookItem) -> str:
    """Return the tenant that an endpoint's routes name for this event, else the endpoint's own."""
    if routes is None or not routes.source.startswith(_BODY):
        return own
    try:
        value = at(parse_json(item.data), routes.source.removeprefix(_BODY))
    except Invalid:
        return own
    return routes.accounts.get(str(value), own)
