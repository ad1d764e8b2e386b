"""The consumer: everybody's audit events into one hash chain, without gaps, each event once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from chassis.telemetry.metrics import counter
from contracts.codec import decode
from contracts.errors import Invalid
from contracts.events.platform import AuditRecorded
from verification import repository
from verification.audit_chain import extend
from verification.metrics import AUDIT_ENTRIES

CONSUMER: Final = "verification-audit"


async def sequence(uow: UnitOfWork, messages: Sequence[Message]) -> None:
    """Append audit events in the order of the topic; an event that is in the log already changes nothing."""
    events = {event.audit_id: event for event in map(_event, messages)}
    head = await repository.lock_audit_head(uow.connection)
    known = await repository.audited(uow.connection, list(events))
    entries = extend(head, (event for event in events.values() if event.audit_id not in known))
    await repository.append_audit(uow.connection, entries)
    uow.after_commit(partial(counter(AUDIT_ENTRIES).inc, len(entries)))


def _event(message: Message) -> AuditRecorded:
    event = decode(AuditRecorded, message.envelope.data)
    # Postgres stores no NUL in text; without this the record would be retried for hours before it is given up.
    texts = (
        event.tenant,
        event.service,
        event.actor,
        event.action,
        event.target,
        *event.detail,
        *event.detail.values(),
    )
    if any("\x00" in text for text in texts):
        raise Invalid("undecodable", "a text holds a NUL character")
    return event
