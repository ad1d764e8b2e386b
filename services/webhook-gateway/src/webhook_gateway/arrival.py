"""One HTTP request to a known endpoint, before anything about it is believed."""

from __future__ import annotations

from datetime import datetime

from contracts.ids import uuid7_text
from providers.sdk import InboundRequest
from webhook_gateway.endpoints import Endpoint


class Arrival:
    """A request as received. `delivery` is our name for it, in every record that comes of it."""

    __slots__ = ("delivery", "endpoint", "received_at", "request")

    def __init__(self, endpoint: Endpoint, request: InboundRequest, received_at: datetime) -> None:
        self.endpoint = endpoint
        self.request = request
        self.received_at = received_at
        self.delivery = uuid7_text()
