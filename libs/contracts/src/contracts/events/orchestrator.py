"""Commands that the orchestrator gives, and what it says about its sagas."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from contracts.events.base import Event, Instant, Slug
from contracts.modes import Mode
from contracts.topics import Lane


class Command(Event):
    """What every command carries. `effect_key` is equal for all attempts of one effect; `attempt` is for audit only."""

    saga_id: UUID
    step: str
    direction: Literal["do", "undo"] = "do"
    effect_key: str
    attempt: int = Field(ge=1)
    tenant: Slug
    lane: Lane = Lane.STANDARD
    deadline: Instant | None = None


class RefundPayment(Command):
    """Return money of a canonical payment; `amount` in minor units, absent means all that is left."""

    TYPE: ClassVar[str] = "payment.refund.v1"

    payment_id: UUID
    amount: int | None = Field(default=None, gt=0)
    reason: str = Field(default="requested_by_customer", max_length=64)


class SendMessage(Command):
    """Tell the customer of a canonical payment something; the recipient's address never leaves the sync worker."""

    TYPE: ClassVar[str] = "message.send.v1"

    payment_id: UUID
    capability: Literal["messaging.sms"] = "messaging.sms"
    text: str = Field(min_length=1, max_length=1000)


class RunOperation(Command):
    """Carry out a canonical operation (`contracts.operations`) at a provider.

    `connection` names the account; without it a live connection of the tenant is taken, at `provider` if that is given,
    else at the provider that the route prefers. Arguments that are personal data are not among `arguments`: they are
    base64 of a JSON object in `personal`, sealed for `operation_place`.
    """

    TYPE: ClassVar[str] = "operation.run.v1"

    operation: str = Field(max_length=64)
    connection: UUID | None = None
    provider: Slug | None = None
    mode: Mode = "live"
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    personal: str = Field(default="", repr=False)


def operation_place(tenant: str, effect_key: str) -> str:
    """Return the place that a command's personal arguments are sealed for."""
    return f"operation|{tenant}|{effect_key}"


class SagaAdvanced(Event):
    """One entry of a saga's timeline."""

    TYPE: ClassVar[str] = "saga.advanced.v1"

    saga_id: UUID
    tenant: Slug
    definition: str
    definition_version: int
    seq: int = Field(ge=1)
    status: str
    entry: str
    step: str = ""
    detail: dict[str, JsonValue] = Field(default_factory=dict)
    at: Instant
