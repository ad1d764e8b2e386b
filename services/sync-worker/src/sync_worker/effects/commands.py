"""Commands as they come, and what is kept of one so that every attempt asks for the same. Pure.

Personal arguments are never in what is kept: they stay sealed, and are opened for the length of one call.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final

from pydantic import ValidationError

from chassis.effects.participant import Refusal
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.orchestrator import Command, RefundPayment, RunOperation, SendMessage
from contracts.operations import Arguments, arguments_of

REFUND: Final = "payment.refund"
MESSAGE: Final = "message.send"
_MODELS: Final[dict[str, type[Command]]] = {model.TYPE: model for model in (RefundPayment, SendMessage, RunOperation)}
_REFERENCE_CHARS: Final = 8
# A list of a hundred lines can be wrong in hundreds of places; all are among the errors, some in the sentence.
_MAX_NAMED: Final = 5
# The name of an argument that nobody knows is whatever the caller made up.
_MAX_NAME: Final = 64


def decode_command(envelope: Envelope) -> Command:
    """Return the command in an envelope; raises `Invalid` (`unknown_command`, `undecodable`)."""
    model = _MODELS.get(envelope.type)
    if model is None:
        raise Invalid("unknown_command", f"no executor for {envelope.type[:64]}", field="ce_type")
    return decode(model, envelope.data)


def operation_name(command: Command) -> str:
    """Return the canonical operation that a command asks for."""
    return command.operation if isinstance(command, RunOperation) else command.TYPE.rpartition(".")[0]


def reference(effect_key: str) -> str:
    """Return the short token that a message carries, by which a look-up finds it at the provider."""
    return effect_key[:_REFERENCE_CHARS].upper()


def open_arguments(operation: str, effect_key: str, stored: dict[str, Any], personal: dict[str, Any]) -> Arguments:
    """Return an operation's arguments from what was stored and what was sealed.

    Raises `Invalid` (`bad_argument`) that names every argument that is missing or wrong, and never its value.
    """
    model = arguments_of(operation)
    try:
        return model.model_validate({**stored, **personal, "effect_key": effect_key})
    except ValidationError as error:
        raise _bad_arguments(error) from None


def _bad_arguments(error: ValidationError) -> Invalid:
    found = [
        (".".join(("arguments", *(str(part)[:_MAX_NAME] for part in one["loc"]))), one["msg"])
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    (field, rule), more = found[0], [name for name, _ in found[1:]]
    named = ", ".join([*more[:_MAX_NAMED], "…"] if len(more) > _MAX_NAMED else more)
    also = f" (and {len(more)} more: {named})" if more else ""
    return Invalid("bad_argument", f"{field}: {rule}{also}", field=field, errors=found)


def sealed_of(command: RunOperation) -> bytes | None:
    """Return the sealed personal arguments of a command; raises `Refusal` (`bad_argument`) if they are no base64."""
    if not command.personal:
        return None
    try:
        return base64.b64decode(command.personal, validate=True)
    except binascii.Error:
        raise Refusal("bad_argument", "personal: it is not base64") from None


def check_plain(operation: str, arguments: dict[str, Any]) -> None:
    """Refuse personal arguments among the plain ones; raises `Invalid` (`unknown_operation`, `bad_argument`)."""
    found = sorted(arguments_of(operation).personal_fields() & arguments.keys())
    if found:
        raise Invalid("bad_argument", f"{', '.join(found)}: personal data must be sealed", field="arguments")


def personal_of(text: str) -> dict[str, Any]:
    """Return opened personal arguments; raises `Invalid` (`bad_argument`)."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Invalid("bad_argument", "the personal arguments are no JSON object", field="personal")
    return found
