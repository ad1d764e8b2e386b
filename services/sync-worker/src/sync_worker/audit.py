"""What people and the sync worker did, for the audit log, in the transaction of the act."""

from __future__ import annotations

from typing import Final

from chassis.audit import Act, record
from chassis.clock import Clock
from chassis.db.database import UnitOfWork

SERVICE: Final = "sync-worker"


class Audit:
    """Writes who did what to which thing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def record(self, uow: UnitOfWork, actor: str, action: str, *, tenant: str, target: str, **detail: str) -> None:
        """Add one entry; `action` is past tense and dotted, `target` is `kind/id`, `detail` holds references only."""
        record(uow, SERVICE, Act(actor, action, target, tenant, detail), self._clock.now())
