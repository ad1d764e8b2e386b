"""Commands as they come, and what is kept of one so that every attempt sends the same request. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.orchestrator import Command, RefundPayment, SendMessage
from contracts.operations import Arguments
from contracts.operations.money import PaymentRefund
from contracts.operations.people import MessageSend

REFUND: Final = "payment.refund"
MESSAGE: Final = "message.send"
_MODELS: Final[dict[str, type[Command]]] = {model.TYPE: model for model in (RefundPayment, SendMessage)}
_REFERENCE_CHARS: Final = 8


def decode_command(envelope: Envelope) -> Command:
    """Return the command in an envelope; raises `Invalid` (`unknown_command`, `undecodable`)."""
    model = _MODELS.get(envelope.type)
    if model is None:
        raise Invalid("unknown_command", f"no executor for {envelope.type[:64]}", field="ce_type")
    return decode(model, envelope.data)


def operation_name(command: Command) -> str:
    """Return the provider operation that a command asks for: its type without the version."""
    return command.TYPE.rpartition(".")[0]


def request_hash(command: Command) -> str:
    """Return a digest of what is asked for: equal for all attempts, different for another request."""
    document = command.model_dump(mode="json", exclude={"attempt", "deadline", "lane"})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def reference(effect_key: str) -> str:
    """Return the short token that a message carries, by which a read-back finds it at the provider."""
    return effect_key[:_REFERENCE_CHARS].upper()


def to_operation(name: str, effect_key: str, stored: dict[str, Any], contact: dict[str, str]) -> Arguments:
    """Return the provider operation from what was stored when the effect was reserved."""
    if name == REFUND:
        return PaymentRefund(
            effect_key=effect_key,
            payment_external_id=stored["payment_external_id"],
            amount=stored["amount"],
            currency=stored["currency"],
            reason=stored["reason"],
        )
    token = reference(effect_key)
    text = f"{stored['text']} Ref {token}"
    return MessageSend(effect_key=effect_key, recipient=contact["phone"], text=text, reference=token)
