"""The hash chain notices every change but a cut at its end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events.platform import AuditRecorded
from verification.audit_chain import Entry, Head, check, extend

AT = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)


def event(number: int, at: datetime = AT) -> AuditRecorded:
    return AuditRecorded(
        audit_id=UUID(int=number),
        tenant="t",
        service="test",
        actor="ada",
        action="thing.done",
        target=f"thing:{number}",
        at=at,
        detail={"b": "ü", "a": "1"},
    )


def chain(length: int) -> list[Entry]:
    return extend(Head(), [event(number) for number in range(length)])


def test_a_chain_has_no_gaps_and_checks() -> None:
    entries = chain(5)
    assert [entry.index for entry in entries] == [1, 2, 3, 4, 5]
    assert check(Head(), entries) == (Head(5, entries[-1].hash), None)


def test_the_hash_is_what_the_documentation_says() -> None:
    entry = chain(1)[0]
    document = {
        "index": 1,
        "audit_id": "00000000-0000-0000-0000-000000000000",
        "tenant": "t",
        "service": "test",
        "actor": "ada",
        "action": "thing.done",
        "target": "thing:0",
        "at": "2026-01-01T12:00:00.000005+00:00",
        "detail": {"a": "1", "b": "ü"},
        "prev_hash": "00" * 32,
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert entry.hash == hashlib.sha256(b"\x00" + text.encode()).digest()


@given(st.integers(0, 6), st.integers(0, 6))
def test_extending_in_batches_gives_the_same_chain(first: int, second: int) -> None:
    events = [event(number) for number in range(first + second)]
    start = extend(Head(), events[:first])
    head = Head(start[-1].index, start[-1].hash) if start else Head()
    assert start + extend(head, events[first:]) == extend(Head(), events)


def test_the_same_instant_in_another_zone_hashes_alike() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=5)))
    assert extend(Head(), [event(1, elsewhere)])[0].hash == extend(Head(), [event(1)])[0].hash


@pytest.mark.parametrize(
    "change",
    [
        {"target": "thing:x"},
        {"actor": "eve"},
        {"action": "other.done"},
        {"tenant": "u"},
        {"service": "other"},
        {"detail": {"a": "2", "b": "ü"}},
        {"at": AT + timedelta(microseconds=1)},
        {"audit_id": UUID(int=99)},
        {"hash": b"\x01" * 32},
        {"prev_hash": b"\x01" * 32},
    ],
)
def test_an_edited_entry_breaks_the_chain_there(change: dict[str, object]) -> None:
    entries = chain(5)
    entries[2] = replace(entries[2], **change)  # type: ignore[arg-type]
    assert check(Head(), entries)[1] == 3


def test_a_rehashed_edit_breaks_the_chain_at_the_next_entry() -> None:
    entries = chain(5)
    forged = replace(entries[2], target="thing:x")
    entries[2] = replace(forged, hash=forged.digest())
    assert check(Head(), entries)[1] == 4


def test_deletion_insertion_and_reordering_break_the_chain() -> None:
    entries = chain(5)
    assert check(Head(), entries[:2] + entries[3:])[1] == 3
    assert check(Head(), [*entries[:2], entries[1], *entries[2:]])[1] == 3
    assert check(Head(), [entries[0], entries[2], entries[1], *entries[3:]])[1] == 2
    assert check(Head(), entries[1:])[1] == 1
