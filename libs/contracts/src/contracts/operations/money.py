"""Operations that move money or keep its books: payments, transfers, customers, invoices."""

from __future__ import annotations

from datetime import date
from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from contracts.events.base import Currency
from contracts.operations.base import Amount, Arguments, Line, Reference, personal


class PaymentAuthorise(Arguments):
    """Reserve money on a payment method that the provider knows as `source`."""

    OPERATION: ClassVar[str] = "payment.authorise"
    CAPABILITY: ClassVar[str] = "payments"

    amount: Amount
    currency: Currency
    source: Reference
    customer: Reference | None = None
    description: Line | None = None


class PaymentCharge(PaymentAuthorise):
    """Take money from a payment method at once."""

    OPERATION: ClassVar[str] = "payment.charge"


class PaymentCapture(Arguments):
    """Take money that was reserved; without `amount` all of it."""

    OPERATION: ClassVar[str] = "payment.capture"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference
    amount: Amount | None = None
    currency: Currency | None = None


class PaymentVoid(Arguments):
    """Give up a reservation."""

    OPERATION: ClassVar[str] = "payment.void"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference


class PaymentRefund(Arguments):
    """Give money of a payment back."""

    OPERATION: ClassVar[str] = "payment.refund"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference
    amount: Amount
    currency: Currency
    reason: Line


class TransferCreate(Arguments):
    """Move money of the platform to a connected account."""

    OPERATION: ClassVar[str] = "transfer.create"
    CAPABILITY: ClassVar[str] = "payments"

    amount: Amount
    currency: Currency
    destination: Reference
    description: Line | None = None


class PayoutCreate(Arguments):
    """Pay money of the account out to its bank, or to `destination`."""

    OPERATION: ClassVar[str] = "payout.create"
    CAPABILITY: ClassVar[str] = "payments"

    amount: Amount
    currency: Currency
    destination: Reference | None = None
    description: Line | None = None


class CustomerCreate(Arguments):
    """Make a customer known to a payment provider; `reference` is our own id of it."""

    OPERATION: ClassVar[str] = "customer.create"
    CAPABILITY: ClassVar[str] = "payments"

    reference: Reference
    name: Line | None = personal(None)
    email: Line | None = personal(None)
    phone: Line | None = personal(None)


class SubscriptionCreate(Arguments):
    """Let a customer pay for a plan again and again."""

    OPERATION: ClassVar[str] = "subscription.create"
    CAPABILITY: ClassVar[str] = "payments"

    customer: Reference
    plan: Reference
    quantity: Annotated[int, Field(ge=1, le=10_000)] = 1


class DocumentLine(BaseModel):
    """One line of an invoice or bill; `account` is the ledger account in the provider's own words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: Line
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    unit_amount: Amount
    account: Reference | None = None
    item: Reference | None = None


class InvoiceCreate(Arguments):
    """Ask a customer for money. `reference` is our own number of it."""

    OPERATION: ClassVar[str] = "invoice.create"
    CAPABILITY: ClassVar[str] = "accounting"

    customer: Reference
    currency: Currency
    lines: Annotated[tuple[DocumentLine, ...], Field(min_length=1, max_length=100)]
    issued_on: date
    due_on: date
    reference: Reference


class BillCreate(Arguments):
    """Book what a supplier asks for."""

    OPERATION: ClassVar[str] = "bill.create"
    CAPABILITY: ClassVar[str] = "accounting"

    supplier: Reference
    currency: Currency
    lines: Annotated[tuple[DocumentLine, ...], Field(min_length=1, max_length=100)]
    issued_on: date
    due_on: date
    reference: Reference


class InvoicePay(Arguments):
    """Book a payment of an invoice, received on `paid_on` in a bank or cash account."""

    OPERATION: ClassVar[str] = "invoice.pay"
    CAPABILITY: ClassVar[str] = "accounting"

    invoice: Reference
    customer: Reference | None = None
    account: Reference | None = None
    amount: Amount
    currency: Currency
    paid_on: date


class BalanceRead(Arguments):
    """Read what an account at the provider holds."""

    OPERATION: ClassVar[str] = "balance.read"
    CAPABILITY: ClassVar[str] = "banking"
    WRITES: ClassVar[bool] = False
