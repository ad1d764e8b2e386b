"""What operators did to the ledger, for the audit log, in the same transaction as the act."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from chassis import audit
from chassis.audit import Act
from chassis.clock import Clock
from chassis.db.database import UnitOfWork

__all__ = ["PLATFORM", "SELF", "SERVICE", "Act", "record"]

SERVICE: Final = "webhook-gateway"
# The actor of what the ledger does by itself.
SELF: Final = "webhook-gateway"
# Acts that concern several tenants are recorded under the platform's own name.
PLATFORM: Final = "platform"


def record(uow: UnitOfWork, clock: Clock, act: Act) -> None:
    """Report an act; it is published if and only if the unit of work commits."""
    audit.record(uow, SERVICE, replace(act, tenant=act.tenant or PLATFORM), clock.now())
