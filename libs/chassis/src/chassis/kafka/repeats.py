"""Which messages are new to a consumer, and which of the others bring something else under an id that it knows.

The id is a promise: a repeat with the same fingerprint is dropped, one with another is a conflict, which takes no
effect and is dead-lettered with its reason. A record without a fingerprint, or whose mark has none, is a plain repeat.
Must cost a batch without repeats no query of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from chassis.db import inbox
from chassis.db.database import UnitOfWork
from chassis.kafka.failures import FailedRecord, dead_letter_row
from chassis.kafka.records import Message
from chassis.telemetry.logs import logger
from contracts.errors import Invalid
from contracts.topics import Topic

log = logger(__name__)

DedupeBy = Literal["fact", "position"]
# The extension that an event is compared by; who writes it leaves out what may differ between repeats.
FINGERPRINT: Final = "fingerprint"


async def take_new(
    uow: UnitOfWork, consumer: str, messages: Sequence[Message], by: DedupeBy
) -> tuple[list[Message], list[Message]]:
    """Mark messages as handled; return those that are new to the consumer, and the conflicts, both in their order."""
    if by == "position":
        ids: list[str] = [message.origin.position for message in messages]
        prints: list[str | None] = []
    else:
        ids = [message.envelope.dedupe_id for message in messages]
        prints = [message.envelope.extensions.get(FINGERPRINT) or None for message in messages]
    if not any(prints):
        new = await inbox.claim(uow.connection, consumer, ids)
        return [message for name, message in zip(ids, messages, strict=True) if _first(name, new)], []
    new = await inbox.claim(uow.connection, consumer, ids, prints)
    fresh: list[Message] = []
    repeats: list[tuple[str, str, Message]] = []
    for name, fingerprint, message in zip(ids, prints, messages, strict=True):
        if _first(name, new):
            fresh.append(message)
        elif fingerprint is not None:
            repeats.append((name, fingerprint, message))
    if not repeats:
        return fresh, []
    # After the claim: the mark of an id that is twice in this batch is there by now, and so is a concurrent one's.
    known = await inbox.known(uow.connection, consumer, [name for name, _, _ in repeats])
    return fresh, [message for name, fingerprint, message in repeats if known.get(name, fingerprint) != fingerprint]


async def bury(uow: UnitOfWork, consumer: str, conflicts: Sequence[Message], topics: Mapping[str, Topic]) -> None:
    """Dead-letter conflicts, each once however often its record is read.

    They do not count towards the dead-letter limit: what a sender does with its ids must not stop the consumer.
    """
    marks = await inbox.claim(uow.connection, consumer, [message.origin.mark for message in conflicts])
    for message in conflicts:
        if message.origin.mark not in marks:
            continue
        error = Invalid("event_conflict", "this id came before, with another content", field="id")
        failed = FailedRecord(consumer, message.origin, message.key, message.envelope.data, message.headers)
        uow.publish_raw(dead_letter_row(failed, topics[message.origin.topic], error))
        log.warning("event_conflict", consumer=consumer, origin=message.origin.mark)


def _first(name: str, new: set[str]) -> bool:
    """Tell whether an id is new, and has not been met yet."""
    if name not in new:
        return False
    new.discard(name)
    return True
