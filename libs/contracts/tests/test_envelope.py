from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.envelope import Envelope, Headers, from_record
from contracts.errors import Invalid

AT = datetime(2026, 3, 1, 12, 30, 15, 250000, tzinfo=UTC)
FULL = Envelope(
    id="evt-1",
    source="/patchbay/sync-worker",
    type="payment.changed.v1",
    data=b'{"a":1}',
    time=AT,
    subject="payment:42",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    extensions={"tenant": "acme", "lane": "bulk"},
)
REQUIRED: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"a.b.v1"),
    ("ce_time", b"2026-03-01T12:00:00+00:00"),
]


def replaced(name: str, value: bytes | None) -> Headers:
    """Return the required headers with one replaced, or dropped when the value is None."""
    kept = [header for header in REQUIRED if header[0] != name]
    return kept if value is None else [*kept, (name, value)]


def test_headers_are_those_of_the_cloudevents_kafka_binding() -> None:
    # Kafka protocol binding 1.0.2 §3.2: attributes are `ce_` headers as UTF-8 strings, datacontenttype is the
    # `content-type` header, the value is the data alone; the trace context is a plain header.
    assert sorted(FULL.headers()) == [
        ("ce_id", b"evt-1"),
        ("ce_lane", b"bulk"),
        ("ce_source", b"/patchbay/sync-worker"),
        ("ce_specversion", b"1.0"),
        ("ce_subject", b"payment:42"),
        ("ce_tenant", b"acme"),
        ("ce_time", b"2026-03-01T12:30:15.250000+00:00"),
        ("ce_type", b"payment.changed.v1"),
        ("content-type", b"application/json"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ]


def test_optional_attributes_are_left_out() -> None:
    names = [name for name, _ in Envelope(id="1", source="/s", type="t", data=b"", time=AT).headers()]
    assert "ce_subject" not in names
    assert "traceparent" not in names


def test_an_envelope_survives_the_record() -> None:
    assert from_record(FULL.data, FULL.headers()) == FULL


@given(
    text=st.text(min_size=1),
    data=st.binary(),
    at=st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9))])),
    extensions=st.dictionaries(st.from_regex(r"x[a-z0-9]{1,8}", fullmatch=True), st.text()),
)
def test_any_envelope_survives_the_record(text: str, data: bytes, at: datetime, extensions: dict[str, str]) -> None:
    envelope = Envelope(id=text, source=text, type=text, data=data, time=at, subject=text, extensions=extensions)
    assert from_record(envelope.data, envelope.headers()) == envelope


def test_a_foreign_producer_needs_no_more_than_the_required_attributes() -> None:
    envelope = from_record(b"x", REQUIRED)
    assert (envelope.content_type, envelope.subject, envelope.traceparent) == ("application/json", None, None)
    assert (envelope.tenant, envelope.extensions) == ("", {})


def test_headers_without_the_prefix_are_no_extensions() -> None:
    assert from_record(b"x", [*REQUIRED, ("x-retry", b"1"), ("ce_lane", b"bulk")]).extensions == {"lane": "bulk"}


def test_the_last_header_of_a_name_wins() -> None:
    assert from_record(b"x", [*REQUIRED, ("ce_id", b"2")]).id == "2"


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"])
def test_a_missing_attribute_is_named(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        from_record(b"x", replaced(name, None))
    assert (caught.value.code, caught.value.field) == ("envelope_missing_attribute", name)


@pytest.mark.parametrize(
    ("name", "value", "code", "field"),
    [
        ("ce_id", b"", "envelope_missing_attribute", "ce_id"),
        ("ce_specversion", b"0.3", "envelope_missing_attribute", "ce_specversion"),
        ("ce_time", b"yesterday", "envelope_bad_attribute", "ce_time"),
        ("ce_time", b"2026-03-01T12:00:00", "envelope_bad_attribute", "ce_time"),
        ("ce_source", b"\xff\xfe", "envelope_bad_attribute", "headers"),
    ],
)
def test_a_bad_attribute_is_refused(name: str, value: bytes, code: str, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        from_record(b"x", replaced(name, value))
    assert (caught.value.code, caught.value.field) == (code, field)


def test_a_header_without_a_value_counts_as_missing() -> None:
    headers: list[tuple[str, bytes]] = [*replaced("ce_id", None), ("ce_id", None)]  # type: ignore[list-item]
    with pytest.raises(Invalid) as caught:
        from_record(b"x", headers)
    assert (caught.value.code, caught.value.field) == ("envelope_missing_attribute", "ce_id")


def test_a_tombstone_is_no_event() -> None:
    with pytest.raises(Invalid) as caught:
        from_record(None, REQUIRED)
    assert caught.value.code == "envelope_no_data"


def test_an_empty_value_is_an_event() -> None:
    assert from_record(b"", REQUIRED).data == b""


def test_the_inbox_key_joins_source_and_id() -> None:
    assert FULL.dedupe_id == "/patchbay/sync-worker|evt-1"
