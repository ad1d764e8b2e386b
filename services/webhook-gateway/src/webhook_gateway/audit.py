"""What operators did to the ledger, as facts for the audit log, in the same transaction as the act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from contracts.events.platform import AuditRecorded
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT

SERVICE: Final = "webhook-gateway"
# The actor of what the ledger does by itself.
SELF: Final = "webhook-gateway"
# Acts that concern several tenants are recorded under the platform's own name.
PLATFORM: Final = "platform"


@dataclass(frozen=True, slots=True)
class Act:
    """Who did what to what; `action` is past tense and dotted. Holds references, never a payload or a secret."""

    actor: str
    action: str
    target: str
    tenant: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)


def record(uow: UnitOfWork, clock: Clock, act: Act) -> None:
    """Report an act; it is published if and only if the unit of work commits."""
    tenant = act.tenant or PLATFORM
    recorded = AuditRecorded(
        audit_id=uuid7(),
        tenant=tenant,
        service=SERVICE,
        actor=act.actor,
        action=act.action,
        target=act.target,
        at=clock.now(),
        detail=dict(act.detail),
    )
    uow.emit(PLATFORM_AUDIT, tenant, recorded, tenant=tenant)
