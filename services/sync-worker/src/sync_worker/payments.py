"""The rule of the canonical payment: which snapshot wins, whatever the order of arrival. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.events.sync import PaymentChanged, PaymentStatus
from contracts.ids import entity_id
from providers.sdk import PaymentSnapshot
from sync_worker.models import Payment

KIND = "payment"


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot and where it came from."""

    tenant: str
    provider: str
    connection: UUID
    snapshot: PaymentSnapshot
    contact: bytes | None

    @property
    def payment_id(self) -> UUID:
        """The canonical id."""
        return entity_id(self.tenant, KIND, self.provider, self.snapshot.external_id)


def merge(known: Payment | None, seen: Seen, now: datetime) -> Payment | None:
    """Return the payment after `seen`, or None when it changes nothing.

    The snapshot with the greatest fence decides the status, and of those that know an amount or contact the one with
    the greatest fence decides that: the result is the same for every order of arrival.
    """
    snapshot = seen.snapshot
    if known is None:
        return Payment(
            id=seen.payment_id,
            tenant=seen.tenant,
            provider=seen.provider,
            connection=seen.connection,
            external_id=snapshot.external_id,
            status=snapshot.status,
            amount=snapshot.amount,
            amount_refunded=snapshot.amount_refunded or 0,
            currency=snapshot.currency,
            contact=seen.contact,
            fence=snapshot.fence,
            amount_fence=None if snapshot.amount is None else snapshot.fence,
            refunded_fence=None if snapshot.amount_refunded is None else snapshot.fence,
            contact_fence=None if seen.contact is None else snapshot.fence,
            version=1,
            occurred_at=snapshot.occurred_at,
            updated_at=now,
        )
    update: dict[str, Any] = {}
    if snapshot.fence > known.fence:
        update |= {"status": snapshot.status, "fence": snapshot.fence, "occurred_at": snapshot.occurred_at}
    if snapshot.amount is not None and _is_newer(snapshot, known.amount_fence):
        update |= {"amount": snapshot.amount, "amount_fence": snapshot.fence}
    if snapshot.amount_refunded is not None and _is_newer(snapshot, known.refunded_fence):
        update |= {"amount_refunded": snapshot.amount_refunded, "refunded_fence": snapshot.fence}
    if seen.contact is not None and _is_newer(snapshot, known.contact_fence):
        update |= {"contact": seen.contact, "contact_fence": snapshot.fence}
    if known.currency is None and snapshot.currency is not None:
        update["currency"] = snapshot.currency
    if not update:
        return None
    return known.model_copy(update=update | {"version": known.version + 1, "updated_at": now})


def _is_newer(snapshot: PaymentSnapshot, fence: int | None) -> bool:
    return fence is None or snapshot.fence > fence


def changed_event(payment: Payment, previous: PaymentStatus | None, cause: str) -> PaymentChanged:
    """Return the event that tells everyone about a payment's new state."""
    return PaymentChanged(
        payment_id=payment.id,
        tenant=payment.tenant,
        connection=payment.connection,
        provider=payment.provider,
        external_id=payment.external_id,
        status=PaymentStatus(payment.status),
        previous_status=previous,
        amount=payment.amount,
        amount_refunded=payment.amount_refunded,
        currency=payment.currency,
        occurred_at=payment.occurred_at,
        version=payment.version,
        cause=cause,
    )


def contact_place(tenant: str, provider: str, external_id: str) -> str:
    """Return the place that a payment's contact is sealed for."""
    return f"payment-contact|{entity_id(tenant, KIND, provider, external_id)}"
