"""The meaning of Square's payment and refund events."""

from __future__ import annotations

import pytest

from contracts.errors import Invalid
from contracts.events.sync import PaymentStatus
from providers import registry
from providers.sdk import PaymentSnapshot

PROVIDER = registry.get("square")


def snapshots(*names: str) -> list[PaymentSnapshot]:
    found = {fixture.name: fixture for fixture in PROVIDER.fixtures()}
    out = []
    for name in names:
        (item,) = PROVIDER.split(found[name].request({}))
        out += PROVIDER.normalise(item.event_type, item.data)
    return out


def test_story_of_a_payment_is_ordered_by_its_fence() -> None:
    story = snapshots(
        "payment.created", "payment.updated", "payment.updated.partially_refunded", "payment.updated.refunded"
    )
    assert [s.fence for s in story] == sorted({s.fence for s in story})
    assert [(s.status, s.amount_refunded) for s in story] == [
        (PaymentStatus.AUTHORIZED, 0),
        (PaymentStatus.SUCCEEDED, 0),
        (PaymentStatus.PARTIALLY_REFUNDED, 500),
        (PaymentStatus.REFUNDED, 1500),
    ]


def test_a_refund_gives_way_to_the_payments_own_update() -> None:
    paid, refund, updated = snapshots("payment.updated", "refund.updated", "payment.updated.partially_refunded")
    assert paid.fence < refund.fence < updated.fence
    assert (refund.external_id, refund.amount, refund.amount_refunded) == (paid.external_id, None, None)


def test_a_pending_refund_says_nothing() -> None:
    assert snapshots("refund.created") == []


def test_a_tip_belongs_to_the_amount() -> None:
    (snapshot,) = snapshots("payment.updated.tip")
    assert snapshot.amount == 1800


def test_a_payment_without_a_time_is_invalid() -> None:
    body = (
        b'{"data":{"object":{"payment":{"id":"p","status":"COMPLETED","amount_money":{"amount":1,"currency":"USD"}}}}}'
    )
    with pytest.raises(Invalid) as error:
        PROVIDER.normalise("payment.updated", body)
    assert error.value.field == "/updated_at"
