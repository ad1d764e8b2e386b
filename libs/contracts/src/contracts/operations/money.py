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

    amount: Amount = Field(description="in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")
    source: Reference = Field(description="the provider's id of the payment method")
    customer: Reference | None = Field(default=None, description="the provider's id of whoever owns the method")
    description: Line | None = Field(default=None, description="what the payer reads")


class PaymentCharge(PaymentAuthorise):
    """Take money from a payment method at once."""

    OPERATION: ClassVar[str] = "payment.charge"


class PaymentCapture(Arguments):
    """Take money that was reserved; without `amount` all of it."""

    OPERATION: ClassVar[str] = "payment.capture"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference = Field(description="the provider's id of the payment")
    amount: Amount | None = Field(
        default=None, description="in the currency's minor unit; without it, all that was reserved"
    )
    currency: Currency | None = Field(
        default=None, description="ISO 4217 code; where the provider asks for it beside an amount"
    )


class PaymentVoid(Arguments):
    """Give up a reservation."""

    OPERATION: ClassVar[str] = "payment.void"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference = Field(description="the provider's id of the payment")


class PaymentRefund(Arguments):
    """Give money of a payment back."""

    OPERATION: ClassVar[str] = "payment.refund"
    CAPABILITY: ClassVar[str] = "payments"

    payment_external_id: Reference = Field(description="the provider's id of the payment")
    amount: Amount = Field(description="how much of it, in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")
    reason: Line = Field(description="why; the provider may show it")


class TransferCreate(Arguments):
    """Move money of the platform to a connected account."""

    OPERATION: ClassVar[str] = "transfer.create"
    CAPABILITY: ClassVar[str] = "payments"

    amount: Amount = Field(description="in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")
    destination: Reference = Field(description="the provider's id of the connected account")
    description: Line | None = Field(default=None, description="what the receiver reads")


class PayoutCreate(Arguments):
    """Pay money of the account out to its bank, or to `destination`."""

    OPERATION: ClassVar[str] = "payout.create"
    CAPABILITY: ClassVar[str] = "payments"

    amount: Amount = Field(description="in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")
    destination: Reference | None = Field(
        default=None, description="the provider's id of who gets it; without it, the account's own bank"
    )
    description: Line | None = Field(default=None, description="what the receiver reads")


class CustomerCreate(Arguments):
    """Make a customer known to a payment provider; `reference` is our own id of it."""

    OPERATION: ClassVar[str] = "customer.create"
    CAPABILITY: ClassVar[str] = "payments"

    reference: Reference = Field(description="our own id of the customer")
    name: Line | None = personal(None, description="the person's name")
    email: Line | None = personal(None, description="the person's e-mail address")
    phone: Line | None = personal(None, description="the person's phone number, E.164")


class SubscriptionCreate(Arguments):
    """Let a customer pay for a plan again and again."""

    OPERATION: ClassVar[str] = "subscription.create"
    CAPABILITY: ClassVar[str] = "payments"

    customer: Reference = Field(description="the provider's id of the customer")
    plan: Reference = Field(description="the provider's id of the plan or price")
    quantity: Annotated[int, Field(ge=1, le=10_000)] = Field(default=1, description="how many of the plan")


class DocumentLine(BaseModel):
    """One line of an invoice or bill; `account` is the ledger account in the provider's own words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: Line = Field(description="what the line is for")
    quantity: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=1, description="how many")
    unit_amount: Amount = Field(description="price of one, in the currency's minor unit")
    account: Reference | None = Field(default=None, description="the ledger account, in the provider's own words")
    item: Reference | None = Field(default=None, description="the provider's id of the article")


class _Document(Arguments):
    """What somebody asks for, line by line."""

    currency: Currency = Field(description="ISO 4217 code")
    lines: Annotated[tuple[DocumentLine, ...], Field(min_length=1, max_length=100)] = Field(
        description="what it is about, line by line"
    )
    issued_on: date = Field(description="date of the document")
    due_on: date = Field(description="date until which it is to be paid")


class InvoiceCreate(_Document):
    """Ask a customer for money. `reference` is our own number of it."""

    OPERATION: ClassVar[str] = "invoice.create"
    CAPABILITY: ClassVar[str] = "accounting"

    customer: Reference = Field(description="the provider's id of the customer")
    reference: Reference = Field(description="our own number of the invoice")


class BillCreate(_Document):
    """Book what a supplier asks for."""

    OPERATION: ClassVar[str] = "bill.create"
    CAPABILITY: ClassVar[str] = "accounting"

    supplier: Reference = Field(description="the provider's id of the supplier")
    reference: Reference = Field(description="the supplier's number of the bill")


class InvoicePay(Arguments):
    """Book a payment of an invoice, received on `paid_on` in a bank or cash account."""

    OPERATION: ClassVar[str] = "invoice.pay"
    CAPABILITY: ClassVar[str] = "accounting"

    invoice: Reference = Field(description="the provider's id of the invoice")
    customer: Reference | None = Field(default=None, description="the provider's id of the customer")
    account: Reference | None = Field(
        default=None, description="the provider's id of the bank or cash account that received it"
    )
    amount: Amount = Field(description="in the currency's minor unit")
    currency: Currency = Field(description="ISO 4217 code")
    paid_on: date = Field(description="date on which the money came")


class AccountBalance(BaseModel):
    """What one account holds in one currency. Amounts are absent while unknown, and may be negative."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    account: str | None = Field(default=None, description="the provider's id of the account, where it names several")
    currency: Currency | None = Field(
        default=None, description="ISO 4217 code; absent, with all amounts, where the provider counts in something else"
    )
    available: int | None = Field(default=None, description="can be spent or paid out now, in the minor unit")
    pending: int | None = Field(default=None, description="is there and becomes available later, in the minor unit")
    withheld: int | None = Field(default=None, description="is there and the provider keeps it, in the minor unit")
    total: int | None = Field(
        default=None, description="all of it, in the minor unit; of a credit or loan account what is owed"
    )


class Balances(BaseModel):
    """What is held at a provider, per account and currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balances: tuple[AccountBalance, ...] = Field(description="one per account and currency, in the provider's order")


class BalanceRead(Arguments):
    """Read what an account at the provider holds."""

    OPERATION: ClassVar[str] = "balance.read"
    CAPABILITY: ClassVar[str] = "banking"
    WRITES: ClassVar[bool] = False
    CONTENT: ClassVar[type[BaseModel] | None] = Balances
