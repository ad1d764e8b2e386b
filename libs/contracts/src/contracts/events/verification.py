"""What the verification service says about people: thresholds and status, never a birth date."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from contracts.events.base import Event, Instant, Slug


class AttestationChanged(Event):
    """The current attestation of one subject. `epoch` grows with every change; revocation is a greater epoch."""

    TYPE: ClassVar[str] = "attestation.changed.v1"

    subject: UUID
    tenant: Slug
    epoch: int
    status: Literal["verified", "refused", "revoked"]
    thresholds: tuple[int, ...] = ()
    verified_at: Instant
    expires_at: Instant | None = None
