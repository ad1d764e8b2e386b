"""All routes of the ledger."""

from __future__ import annotations

from starlette.routing import BaseRoute

from webhook_gateway.ledger import analytics, dead_letters, deliveries, issues, quarantine, replays
from webhook_gateway.ledger.api import LedgerApi


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of the ledger."""
    parts = (deliveries, replays, quarantine, dead_letters, issues, analytics)
    return [route for part in parts for route in part.routes(api)]
