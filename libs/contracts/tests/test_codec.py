from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from pydantic import BaseModel

from contracts.codec import decode, encode
from contracts.errors import Invalid
from contracts.events.base import Instant, Slug
from contracts.events.platform import AuditRecorded

# Appears nowhere in the words of an error, so that a quotation of it cannot hide.
PERSONAL = "Zoë Quix 0049-555"
AUDIT = AuditRecorded(
    audit_id=UUID(int=1),
    tenant="acme",
    service="sync-worker",
    actor="operator-1",
    action="connection.created",
    target="connection:1",
    at=datetime(2026, 3, 1, tzinfo=UTC),
    detail={"note": "grüße"},
)


class Inner(BaseModel):
    count: int


class Sample(BaseModel):
    slug: Slug = "a"
    number: int = 0
    at: Instant | None = None
    id: UUID | None = None
    inner: tuple[Inner, ...] = ()


def test_a_model_survives_the_wire() -> None:
    assert decode(AuditRecorded, encode(AUDIT)) == AUDIT


def test_the_wire_is_utf_8_json_without_absent_fields() -> None:
    wire = encode(Sample(number=3))
    assert json.loads(wire) == {"slug": "a", "number": 3, "inner": []}
    assert "grüße".encode() in encode(AUDIT)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"slug": PERSONAL}, "slug"),
        ({"number": PERSONAL}, "number"),
        ({"at": PERSONAL}, "at"),
        ({"id": PERSONAL}, "id"),
        ({"inner": [{"count": 1}, {"count": PERSONAL}]}, "inner.1.count"),
    ],
)
def test_an_error_names_the_field_and_never_quotes_the_value(document: dict[str, object], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode(Sample, json.dumps(document).encode())
    assert (caught.value.code, caught.value.field) == ("undecodable", field)
    assert caught.value.detail.startswith(f"{field}: ")
    assert PERSONAL not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", PERSONAL.encode()])
def test_a_body_that_is_no_object_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        decode(Sample, body)
    assert (caught.value.code, caught.value.field) == ("undecodable", None)
    assert PERSONAL not in str(caught.value)
