"""Stripe's payment events as snapshots of canonical payments.

A payment is named by its PaymentIntent, or by its Charge when it has none. Amounts pass through: Stripe already writes
minor units. Must never raise for an event type that is not about payments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from contracts.events.sync import PaymentStatus
from providers.reading import at, first_text, integer, text, unix_time
from providers.sdk import PaymentSnapshot

_INTENT_STATUS: Final = {
    "requires_payment_method": PaymentStatus.PENDING,
    "requires_confirmation": PaymentStatus.PENDING,
    "requires_action": PaymentStatus.PENDING,
    "processing": PaymentStatus.PENDING,
    "requires_capture": PaymentStatus.AUTHORIZED,
    "succeeded": PaymentStatus.SUCCEEDED,
    "canceled": PaymentStatus.CANCELED,
}
_RANK: Final = {status: rank for rank, status in enumerate(PaymentStatus)}
_INTENT_CONTACT: Final = {"phone": ("/shipping/phone",), "email": ("/receipt_email",)}
_CHARGE_CONTACT: Final = {
    "phone": ("/billing_details/phone", "/shipping/phone"),
    "email": ("/billing_details/email", "/receipt_email"),
}


def normalise(event_type: str, event: dict[str, Any]) -> list[PaymentSnapshot]:
    """Return the snapshot that an event carries, or nothing.

    Refund objects and closed disputes carry no state of the payment: `charge.refunded` and `charge.updated` do. Raises
    `Invalid` (`unreadable_payload`) for a payload of another shape.
    """
    thing = at(event, "/data/object")
    if event_type.startswith("payment_intent."):
        return [_intent(event_type, event, thing)]
    if event_type == "charge.dispute.created":
        return [_dispute(event, thing)]
    if event_type.startswith("charge.") and at(thing, "/object") == "charge":
        return [_charge(event_type, event, thing)]
    return []


def _intent(event_type: str, event: dict[str, Any], intent: Any) -> PaymentSnapshot:
    status = _INTENT_STATUS.get(text(intent, "/status"), PaymentStatus.PENDING)
    if event_type == "payment_intent.payment_failed":
        status = PaymentStatus.FAILED
    received = at(intent, "/amount_received")
    return PaymentSnapshot(
        external_id=text(intent, "/id"),
        status=status,
        amount=received if status is PaymentStatus.SUCCEEDED and received else integer(intent, "/amount"),
        amount_refunded=None,
        currency=text(intent, "/currency").upper(),
        occurred_at=unix_time(event, "/created"),
        fence=_fence(event, status, detail=0),
        contact=_contact(intent, _INTENT_CONTACT),
    )


def _charge(event_type: str, event: dict[str, Any], charge: Any) -> PaymentSnapshot:
    status = _charge_status(event_type, charge)
    captured = at(charge, "/amount_captured")
    return PaymentSnapshot(
        external_id=first_text(charge, ("/payment_intent", "/id")) or text(charge, "/id"),
        status=status,
        amount=captured if at(charge, "/captured") is True and captured else integer(charge, "/amount"),
        amount_refunded=integer(charge, "/amount_refunded"),
        currency=text(charge, "/currency").upper(),
        occurred_at=unix_time(event, "/created"),
        fence=_fence(event, status, detail=1),
        contact=_contact(charge, _CHARGE_CONTACT),
    )


def _charge_status(event_type: str, charge: Any) -> PaymentStatus:
    if event_type == "charge.expired":
        return PaymentStatus.CANCELED
    state = text(charge, "/status")
    if state == "failed":
        return PaymentStatus.FAILED
    if state != "succeeded":
        return PaymentStatus.PENDING
    if at(charge, "/captured") is False:
        return PaymentStatus.AUTHORIZED
    if at(charge, "/refunded") is True:
        return PaymentStatus.REFUNDED
    return PaymentStatus.PARTIALLY_REFUNDED if integer(charge, "/amount_refunded") > 0 else PaymentStatus.SUCCEEDED


def _dispute(event: dict[str, Any], dispute: Any) -> PaymentSnapshot:
    # The disputed amount may be a part, so the payment's own amount is not known here.
    return PaymentSnapshot(
        external_id=first_text(dispute, ("/payment_intent", "/charge")) or text(dispute, "/charge"),
        status=PaymentStatus.DISPUTED,
        amount=None,
        amount_refunded=None,
        currency=text(dispute, "/currency").upper(),
        occurred_at=unix_time(event, "/created"),
        fence=_fence(event, PaymentStatus.DISPUTED, detail=0),
    )


def _fence(event: dict[str, Any], status: PaymentStatus, *, detail: int) -> int:
    """Return seconds x 1000 + lattice rank x 10 + detail.

    Stripe stamps events with whole seconds, so events of one second are ordered by the lattice of states; of two with
    the same state the charge, which knows more (refunds, billing details), wins over the intent.
    """
    return integer(event, "/created") * 1000 + _RANK[status] * 10 + detail


def _contact(thing: Any, places: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    found = {name: first_text(thing, pointers) for name, pointers in places.items()}
    return {name: value for name, value in found.items() if value is not None}
