"""Entries of the audit log, in the transaction of the act. Must never hold a secret or personal data."""

from __future__ import annotations

from typing import Final

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from contracts.events.platform import AuditRecorded
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT

SERVICE: Final = "sync-worker"


class Audit:
    """Writes who did what to which thing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def record(self, uow: UnitOfWork, actor: str, action: str, *, tenant: str, target: str, **detail: str) -> None:
        """Add one entry; `action` is past tense and dotted, `target` is `kind/id`, `detail` holds references only."""
        recorded = AuditRecorded(
            audit_id=uuid7(),
            tenant=tenant,
            service=SERVICE,
            actor=actor,
            action=action,
            target=target,
            at=self._clock.now(),
            detail=detail,
        )
        uow.emit(PLATFORM_AUDIT, tenant, recorded, tenant=tenant)
