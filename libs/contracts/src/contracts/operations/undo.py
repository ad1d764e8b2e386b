"""What takes an operation back: the operation that does it, with arguments made from what was done.

Only what leaves the world as it was before counts: a message that was read cannot be taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from contracts.operations.base import Arguments
from contracts.operations.money import PaymentRefund, PaymentVoid
from contracts.operations.people import AlertResolve, BookingCancel, CalendarCancel
from contracts.operations.things import DocumentDelete

_UNDO: Final[dict[str, Callable[[Any, str, str], Arguments]]] = {
    "payment.authorise": lambda _, ref, key: PaymentVoid(effect_key=key, payment_external_id=ref),
    "payment.charge": lambda done, ref, key: PaymentRefund(
        effect_key=key,
        payment_external_id=ref,
        amount=done.amount,
        currency=done.currency,
        reason="requested_by_customer",
    ),
    "calendar.hold": lambda done, ref, key: CalendarCancel(effect_key=key, calendar=done.calendar, event=ref),
    "booking.create": lambda _, ref, key: BookingCancel(effect_key=key, booking=ref),
    "document.put": lambda done, _, key: DocumentDelete(effect_key=key, path=done.path),
    "alert.trigger": lambda done, _, key: AlertResolve(effect_key=key, alias=done.alias),
}


def undo(done: Arguments, provider_ref: str, effect_key: str) -> Arguments | None:
    """Return what takes a done operation back under an effect key of its own, or None when nothing does."""
    make = _UNDO.get(done.OPERATION)
    return make(done, provider_ref, effect_key) if make else None
