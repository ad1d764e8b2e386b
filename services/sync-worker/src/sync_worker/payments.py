"""The rule of the canonical payment: which snapshot wins, whatever the order of arrival. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
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

    A snapshot with a greater fence wins. An older one, which arrived late, may only fill in what nobody knew yet
    (amount, currency, contact): it never turns a status back.
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
            version=1,
            occurred_at=snapshot.occurred_at,
            updated_at=now,
        )
    newer = snapshot.fence > known.fence
    changed = known.model_copy(
        update={
            "amount": known.amount if known.amount is not None and not newer else snapshot.amount or known.amount,
            "currency": known.currency or snapshot.currency,
            "contact": known.contact or seen.contact,
        }
    )
    if newer:
        changed.status = snapshot.status
        changed.fence = snapshot.fence
        changed.occurred_at = snapshot.occurred_at
        if snapshot.amount_refunded is not None:
            changed.amount_refunded = snapshot.amount_refunded
    elif changed == known:
        return None
    changed.version = known.version + 1
    changed.updated_at = now
    return changed


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
