"""Entries of the audit log, in the transaction of the act. Must never hold a secret or personal data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from chassis.db.database import UnitOfWork
from contracts.events.platform import AuditRecorded
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT


@dataclass(frozen=True, slots=True)
class Act:
    """Who did what to what: `action` is past tense and dotted, `detail` holds references only."""

    actor: str
    action: str
    target: str
    tenant: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


def record(uow: UnitOfWork, service: str, act: Act, at: datetime) -> None:
    """Report an act; it is published if and only if the unit of work commits."""
    recorded = AuditRecorded(
        audit_id=uuid7(),
        tenant=act.tenant,
        service=service,
        actor=act.actor,
        action=act.action,
        target=act.target,
        at=at,
        detail=dict(act.detail),
    )
    uow.emit(PLATFORM_AUDIT, act.tenant, recorded, tenant=act.tenant)
