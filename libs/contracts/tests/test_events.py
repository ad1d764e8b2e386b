from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.envelope import Envelope, from_record
from contracts.errors import Invalid
from contracts.events.base import Currency, Instant, Slug
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes

AT = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)
DELIVERY = DeliveryAttributes(
    delivery="d1",
    provider="example",
    endpoint="ep1",
    connection="c1",
    tenant="acme",
    lane="standard",
    event="evt_1",
    eventtype="payment.updated",
    receivedat=AT,
    verifiedat=AT + timedelta(milliseconds=3),
    keyid="k1",
    bodysha256="00",
    entity="payment:pay_1",
    item=1,
    items=2,
    signed=(("x-signature", "v1=ab,cd"), ("x-id", '"quoted"')),
)


def envelope(delivery: DeliveryAttributes, **changed: str) -> Envelope:
    extensions = {**delivery.extensions(), **changed}
    return Envelope(id="1", source="/s", type=DELIVERY_ACCEPTED, data=b"{}", time=AT, extensions=extensions)


@pytest.mark.parametrize("delivery", [DELIVERY, replace(DELIVERY, signed=(), item=0, items=0, entity="")])
def test_delivery_attributes_survive_a_record(delivery: DeliveryAttributes) -> None:
    sent = envelope(delivery)
    assert DeliveryAttributes.of(from_record(sent.data, sent.headers())) == delivery


def test_extension_names_are_lower_case_alphanumeric_as_cloudevents_demands() -> None:
    assert [name for name in DELIVERY.extensions() if not (name.isalnum() and name == name.lower())] == []


def test_an_extension_of_a_newer_gateway_is_ignored() -> None:
    assert DeliveryAttributes.of(envelope(DELIVERY, novelty="1")) == DELIVERY


@pytest.mark.parametrize(
    "changed",
    [
        {"receivedat": "soon"},
        {"receivedat": "2026-03-01T12:00:00"},
        {"item": "one"},
        {"signed": "{"},
        {"signed": "[1]"},
    ],
)
def test_a_bad_attribute_is_invalid(changed: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        DeliveryAttributes.of(envelope(DELIVERY, **changed))
    assert caught.value.code == "bad_delivery"


@pytest.mark.parametrize("name", ["delivery", "tenant", "verifiedat", "bodysha256"])
def test_a_missing_attribute_is_invalid(name: str) -> None:
    extensions = {key: value for key, value in DELIVERY.extensions().items() if key != name}
    with pytest.raises(Invalid) as caught:
        DeliveryAttributes.of(replace(envelope(DELIVERY), extensions=extensions))
    assert caught.value.code == "bad_delivery"


def test_only_item_0_of_a_batch_is_taken_out_of_the_request() -> None:
    request = '[ {"n": "é"}, {"n": 2} ]'.encode()
    assert replace(DELIVERY, item=0, items=2).payload(request) == '{"n":"é"}'.encode()
    assert replace(DELIVERY, item=1, items=2).payload(b'{"n": 2}') == b'{"n": 2}'
    assert replace(DELIVERY, item=0, items=0).payload(request) == request


@pytest.mark.parametrize("body", [b"[]", b"{}", b'"text"', b"1", b"{", b"\xff"])
def test_item_0_of_a_batch_that_is_no_array_is_invalid(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        replace(DELIVERY, item=0, items=2).payload(body)
    assert (caught.value.code, caught.value.field) == ("bad_delivery", "data")


def test_an_instant_is_turned_into_utc_and_a_naive_time_refused() -> None:
    adapter: TypeAdapter[datetime] = TypeAdapter(Instant)
    read = adapter.validate_python(datetime(2026, 3, 1, 3, tzinfo=timezone(timedelta(hours=-9))))
    assert (read, read.tzinfo) == (datetime(2026, 3, 1, 12, tzinfo=UTC), UTC)
    for naive in (datetime(2026, 3, 1), "2026-03-01T12:00:00"):  # noqa: DTZ001 (the point of the test)
        with pytest.raises(ValidationError):
            adapter.validate_python(naive)


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        *[("acme", True), ("a-1_b", True), ("0a", True), ("a" * 63, True)],
        *[("", False), ("Acme", False), ("-a", False), ("a:b", False), ("a\n", False), ("a" * 64, False)],
    ],
)
def test_a_slug_is_short_and_lower_case(text: str, *, ok: bool) -> None:
    assert accepts(TypeAdapter(Slug), text) == ok


@pytest.mark.parametrize(("text", "ok"), [("EUR", True), ("eur", False), ("EURO", False), ("EU", False)])
def test_a_currency_is_three_capitals(text: str, *, ok: bool) -> None:
    assert accepts(TypeAdapter(Currency), text) == ok


def accepts(adapter: TypeAdapter[str], text: str) -> bool:
    try:
        adapter.validate_json(json.dumps(text))
    except ValidationError:
        return False
    return True
