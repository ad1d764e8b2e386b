"""Square's payment and refund events as snapshots of canonical payments.

Only payment objects carry totals; a completed refund merely tells that money went back. Must never raise for an event
type that is not about payments.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contracts.events.sync import PaymentStatus
from providers.reading import at, first_text, instant, integer, text
from providers.sdk import PaymentSnapshot

_STATUS: Final = {
    "PENDING": PaymentStatus.PENDING,
    "APPROVED": PaymentStatus.AUTHORIZED,
    "COMPLETED": PaymentStatus.SUCCEEDED,
    "CANCELED": PaymentStatus.CANCELED,
    "FAILED": PaymentStatus.FAILED,
}
_RANK: Final = {status: rank for rank, status in enumerate(PaymentStatus)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def normalise(event_type: str, event: dict[str, Any]) -> list[PaymentSnapshot]:
    """Return the snapshot that an event carries, or nothing.

    Raises `Invalid` (`unreadable_payload`) for a payload of another shape.
    """
    if event_type in {"payment.created", "payment.updated"}:
        return [_payment(at(event, "/data/object/payment"))]
    if event_type in {"refund.created", "refund.updated"}:
        return _refund(at(event, "/data/object/refund"))
    return []


def _payment(payment: Any) -> PaymentSnapshot:
    # The total includes a tip, and a refund may return the tip too.
    money = "/total_money" if at(payment, "/total_money") else "/amount_money"
    amount = integer(payment, f"{money}/amount")
    refunded = integer(payment, "/refunded_money/amount") if at(payment, "/refunded_money") else 0
    status = _STATUS.get(text(payment, "/status"), PaymentStatus.PENDING)
    if status is PaymentStatus.SUCCEEDED and refunded:
        status = PaymentStatus.REFUNDED if refunded >= amount else PaymentStatus.PARTIALLY_REFUNDED
    updated_at = instant(payment, "/updated_at")
    email = first_text(payment, ("/buyer_email_address",))
    return PaymentSnapshot(
        external_id=text(payment, "/id"),
        status=status,
        amount=amount,
        amount_refunded=refunded,
        currency=text(payment, f"{money}/currency"),
        occurred_at=updated_at,
        # Square writes milliseconds: below them the lattice orders states of the same instant.
        fence=_micros(updated_at) + _RANK[status],
        contact={} if email is None else {"email": email},
    )


def _refund(refund: Any) -> list[PaymentSnapshot]:
    """Return that money went back, fenced just before the refund's creation.

    Square then updates the payment too, with the total; that snapshot must win whatever the order of arrival.
    """
    if text(refund, "/status") != "COMPLETED":
        return []
    return [
        PaymentSnapshot(
            external_id=text(refund, "/payment_id"),
            status=PaymentStatus.PARTIALLY_REFUNDED,
            amount=None,
            amount_refunded=None,
            currency=text(refund, "/amount_money/currency"),
            occurred_at=instant(refund, "/updated_at"),
            fence=_micros(instant(refund, "/created_at")) - 1,
        )
    ]


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
