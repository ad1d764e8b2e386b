"""Refund a payment, then tell its customer by SMS.

The refund is the pivot: once the provider has it, the message follows, however long the messaging provider is away.
Isolation: one run per payment (the business key), so two refunds of one payment cannot interleave.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.events.base import Event, Slug
from contracts.events.orchestrator import RefundPayment, SendMessage
from contracts.events.sync import PaymentChanged, PaymentStatus
from contracts.topics import Lane
from orchestrator.catalogue import StartRequest
from orchestrator.definition import Definition, Step, StepKind

DEFINITION: Final = Definition(
    name="refund-and-notify",
    version=1,
    lane=Lane.CRITICAL,
    steps=(
        Step(
            name="refund",
            kind=StepKind.PIVOT,
            command=RefundPayment.TYPE,
            arguments={"payment_id": "$input.payment_id", "amount": "$input.amount", "reason": "$input.reason"},
        ),
        Step(
            name="notify",
            kind=StepKind.RETRIABLE,
            after=("refund",),
            command=SendMessage.TYPE,
            arguments={"payment_id": "$input.payment_id", "text": "$input.message"},
        ),
    ),
)


class Input(BaseModel):
    """What a run needs; `amount` in minor units, absent means all that is left of the payment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Slug
    payment_id: UUID
    amount: int | None = Field(default=None, gt=0)
    reason: str = Field(default="requested_by_customer", min_length=1, max_length=64)
    message: str = Field(default="We have refunded your payment.", min_length=1, max_length=320)

    @property
    def business_key(self) -> str:
        """One run per payment."""
        return f"payment:{self.payment_id}"


def start_for(event: Event) -> StartRequest | None:
    """Start a run when a payment becomes disputed."""
    if not isinstance(event, PaymentChanged) or event.status is not PaymentStatus.DISPUTED:
        return None
    if event.previous_status is PaymentStatus.DISPUTED:
        return None
    given = Input(tenant=event.tenant, payment_id=event.payment_id, reason="disputed")
    return StartRequest(definition=DEFINITION, given=given, cause=f"payment {event.payment_id} was disputed")
