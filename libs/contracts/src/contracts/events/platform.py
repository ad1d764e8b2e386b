"""What every service reports to the audit log."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from pydantic import Field

from contracts.events.base import Event, Instant


class AuditRecorded(Event):
    """Somebody did something that must be explainable later. Holds references, never secrets or personal data."""

    TYPE: ClassVar[str] = "audit.recorded.v1"

    audit_id: UUID
    tenant: str
    service: str
    actor: str
    action: str = Field(description="past tense, dotted: connection.created")
    target: str
    at: Instant
    detail: dict[str, str] = Field(default_factory=dict)
