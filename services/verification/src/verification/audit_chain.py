"""The hash chain of the audit log; pure. An edit, deletion, insertion or reordering breaks it from that entry on.

What a chain cannot show by itself: entries cut off at its end (keep copies of the head elsewhere), and events that
nobody ever reported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from contracts.events.platform import AuditRecorded

# A leaf, as in RFC 6962 §2.1, so that the entries can become leaves of a Merkle tree.
_LEAF: Final = b"\x00"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: index and hash of its last entry; the index is 0 before the first."""

    index: int = 0
    hash: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as stored."""

    index: int
    audit_id: UUID
    tenant: str
    service: str
    actor: str
    action: str
    target: str
    at: datetime
    detail: dict[str, str]
    prev_hash: bytes
    hash: bytes = b""

    def canonical(self) -> bytes:
        """Return the bytes that are hashed: JSON with sorted keys, no spaces, UTF-8; integers and strings only."""
        document = {
            "index": self.index,
            "audit_id": str(self.audit_id),
            "tenant": self.tenant,
            "service": self.service,
            "actor": self.actor,
            "action": self.action,
            "target": self.target,
            "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "detail": self.detail,
            "prev_hash": self.prev_hash.hex(),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(self) -> bytes:
        """Return the hash that the entry must carry."""
        return hashlib.sha256(_LEAF + self.canonical()).digest()


def extend(head: Head, events: Iterable[AuditRecorded]) -> list[Entry]:
    """Return `events` as entries behind `head`, without gaps."""
    entries: list[Entry] = []
    for event in events:
        entry = Entry(
            index=head.index + 1,
            audit_id=event.audit_id,
            tenant=event.tenant,
            service=event.service,
            actor=event.actor,
            action=event.action,
            target=event.target,
            at=event.at,
            detail=dict(event.detail),
            prev_hash=head.hash,
        )
        head = Head(entry.index, entry.digest())
        entries.append(replace(entry, hash=head.hash))
    return entries


def check(head: Head, entries: Sequence[Entry]) -> tuple[Head, int | None]:
    """Follow the chain from `head` over `entries`; return its new end and the first index that is not right, if any."""
    for entry in entries:
        expected = head.index + 1
        if entry.index != expected or entry.prev_hash != head.hash or entry.hash != entry.digest():
            return head, expected
        head = Head(entry.index, entry.hash)
    return head, None
