"""A delivery on its way into the ledger.

The same fields as the table's model, as a plain object: making 41 fields of a SQLModel takes 340 µs, more than
everything else that storing a delivery needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(slots=True)
class Delivery:
    """One row of `deliveries`; see `webhook_gateway.models.Delivery` for what the fields mean."""

    id: UUID
    item: int
    received_at: datetime
    outcome: str
    provider: str
    tenant: str
    endpoint: str
    connection: UUID
    topic: str
    partition: int
    offset: int
    body_sha256: str
    reason: str = ""
    status: int | None = None
    settled: str = ""
    lane: str = ""
    origin: str = "webhook"
    replay: str = ""
    first_delivery: UUID | None = None
    event_id: str = ""
    event_type: str = ""
    event_sha256: str = ""
    api_version: str = ""
    entity: str = ""
    items: int = 0
    method: str = ""
    key_id: str = ""
    verified_at: datetime | None = None
    message_id: str = ""
    source: str = ""
    record_key: str = ""
    trace_id: str = ""
    traceparent: str = ""
    headers: list[list[str]] = field(default_factory=list)
    content_type: str = ""
    encoding: str = ""
    cards: int = 0
    body: bytes = b""
    body_bytes: int = 0
    claim: str = ""
    place: str = ""
    document: Any = None
