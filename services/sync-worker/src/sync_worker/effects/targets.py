"""Where a command goes: which connection carries it out, and what to remember of it. Must never call a provider."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.connection import Connection
from chassis.effects.participant import Refusal, Target
from chassis.effects.states import Effect
from chassis.sealing import Keyring, SealError
from contracts.errors import Invalid
from contracts.events.orchestrator import Command, RefundPayment, RunOperation, SendMessage, operation_place
from contracts.modes import Mode
from contracts.operations import arguments_of
from contracts.operations.undo import undo
from providers import registry
from sync_worker.connections.states import CALLABLE
from sync_worker.effects.commands import (
    MESSAGE,
    check_plain,
    open_arguments,
    operation_name,
    personal_of,
    reference,
    sealed_of,
)
from sync_worker.models import Connection as ProviderConnection
from sync_worker.models import Payment
from sync_worker.outbound.route_table import RouteTable
from sync_worker.payments import contact_place
from sync_worker.repository import connections, payments

# A connection that was revoked is refused by the call itself, so this only saves reading it for each command.
HELD_S: Final = 1.0
MAX_HELD: Final = 10_000
# Where an operation hands on an answer as it is (`content = true`); sealed in whatever is stored or published of it.
CONTENT: Final = "content"


class Targets:
    """Resolves commands to connections."""

    def __init__(self, keyring: Keyring, routes: RouteTable, clock: Clock) -> None:
        self._keyring = keyring
        self._routes = routes
        self._clock = clock
        self._named: dict[UUID, tuple[float, ProviderConnection]] = {}

    async def resolve(self, connection: Connection, command: Command) -> Target:
        """Return where a command goes; raises `Refusal`."""
        if isinstance(command, RefundPayment):
            return await self._refund(connection, command)
        if isinstance(command, SendMessage):
            return await self._message(connection, command)
        if isinstance(command, RunOperation):
            return await self._operation(connection, command)
        raise Refusal("unknown_command", f"no executor for {command.TYPE}")

    async def undo(self, connection: Connection, done: Effect, command: Command) -> Target | None:
        """Return what takes a done effect back at the account that holds it, or None when nothing does."""
        try:
            arguments = open_arguments(done.operation, done.key, done.command, self.personal(done))
        except (Invalid, SealError):
            raise Refusal("unreadable_effect", "what was done can no longer be read") from None
        back = undo(arguments, done.provider_ref, command.effect_key)
        if back is None or registry.get(done.provider).manifest.operation(back.OPERATION) is None:
            return None
        if done.connection is None or await connections.live_for_account(connection, done.connection) is None:
            raise Refusal("no_connection", "the account that holds the effect is not connected")
        stored = back.model_dump(mode="json", exclude={"effect_key"}, exclude_none=True)
        return Target(back.OPERATION, stored, provider=done.provider, connection=done.connection)

    def personal(self, effect: Effect) -> dict[str, Any]:
        """Return the personal arguments of an effect, opened; raises `SealError`, and `Invalid` for what is inside."""
        if effect.personal is None:
            return {}
        return personal_of(self._keyring.open(effect.personal, operation_place(effect.tenant, effect.key)))

    def result(self, effect: Effect) -> dict[str, Any]:
        """Return what an effect's answer said, its content opened and in base64; raises `SealError` and `Invalid`."""
        sealed = effect.result.get(CONTENT)
        if not isinstance(sealed, str):
            return dict(effect.result)
        try:
            raw = base64.b64decode(sealed, validate=True)
        except binascii.Error:
            raise SealError("the sealed content is no base64") from None
        opened = personal_of(self._keyring.open(raw, operation_place(effect.tenant, effect.key)))
        return {**effect.result, **opened}

    def seal(self, tenant: str, effect_key: str, personal: dict[str, Any]) -> bytes | None:
        """Return personal arguments sealed for one effect, None when there are none."""
        if not personal:
            return None
        return self._keyring.seal(json.dumps(personal), operation_place(tenant, effect_key))

    async def _refund(self, connection: Connection, command: RefundPayment) -> Target:
        payment = await _payment(connection, command.tenant, command)
        found = await connections.live_for_account(connection, payment.connection)
        if found is None:
            raise Refusal("no_connection", "the payment's account is not connected")
        if registry.get(found.provider).manifest.operation(operation_name(command)) is None:
            raise Refusal("not_offered", "the payment's provider does not offer refunds")
        if payment.amount is None or payment.currency is None:
            raise Refusal("amount_unknown", "the payment's amount has not been seen yet")
        left = payment.amount - payment.amount_refunded
        amount = left if command.amount is None else command.amount
        if not 0 < amount <= left:
            raise Refusal("amount_exceeds_payment", f"at most {left} {payment.currency} minor units are left")
        stored = {
            "payment_external_id": payment.external_id,
            "amount": amount,
            "currency": payment.currency,
            "reason": command.reason,
        }
        return Target(operation_name(command), stored, provider=found.provider, connection=found.id)

    async def _message(self, connection: Connection, command: SendMessage) -> Target:
        payment = await _payment(connection, command.tenant, command)
        phone = self.contact(payment).get("phone")
        if not phone:
            raise Refusal("no_recipient", "no phone number is known for the payment's customer")
        paid = await self._known(connection, payment.connection)
        if paid is None:
            raise Refusal("no_connection", "the payment's account is not known")
        # A payment that was made to try things out must not reach a real person.
        found = await self._chosen(connection, command.tenant, MESSAGE, provider=None, mode=paid.mode)
        token = reference(command.effect_key)
        personal = {"recipient": phone, "text": f"{command.text} Ref {token}"}
        sealed = self.seal(command.tenant, command.effect_key, personal)
        return Target(MESSAGE, {"reference": token}, sealed, found.provider, found.id)

    async def _operation(self, connection: Connection, command: RunOperation) -> Target:
        sealed = sealed_of(command)
        try:
            check_plain(command.operation, dict(command.arguments))
            place = operation_place(command.tenant, command.effect_key)
            opened = personal_of(self._keyring.open(sealed, place)) if sealed else {}
            open_arguments(command.operation, command.effect_key, dict(command.arguments), opened)
        except Invalid as error:
            raise Refusal(error.code, error.detail) from None
        except SealError:
            raise Refusal("bad_argument", "personal: it does not open for this effect") from None
        if command.connection is not None:
            found = await self._checked(connection, command, command.connection)
        else:
            found = await self._chosen(
                connection, command.tenant, command.operation, provider=command.provider, mode=command.mode
            )
        return Target(command.operation, dict(command.arguments), sealed, found.provider, found.id)

    async def _checked(self, connection: Connection, command: RunOperation, wanted: UUID) -> ProviderConnection:
        found = await self._known(connection, wanted)
        if found is None or found.tenant != command.tenant or found.state not in CALLABLE:
            raise Refusal("no_connection", "the tenant has no such live connection")
        if found.mode != command.mode:
            raise Refusal("wrong_mode", f"the connection is a {found.mode} one")
        if registry.get(found.provider).manifest.operation(command.operation) is None:
            raise Refusal("not_offered", f"{found.provider} does not offer {command.operation}")
        return found

    async def _known(self, connection: Connection, wanted: UUID) -> ProviderConnection | None:
        """Return a connection as it was a moment ago: the call itself looks at its state once more."""
        now = self._clock.monotonic()
        held = self._named.get(wanted)
        if held is not None and held[0] > now:
            return held[1]
        found = await connections.by_id(connection, wanted)
        if found is not None:
            self._named[wanted] = (now + HELD_S, found)
        if len(self._named) > MAX_HELD:
            self._named.pop(next(iter(self._named)))
        return found

    async def _chosen(
        self, connection: Connection, tenant: str, operation: str, *, provider: str | None, mode: Mode
    ) -> ProviderConnection:
        """Return the oldest connection of a mode at the provider that the mode's route prefers."""
        capability = arguments_of(operation).CAPABILITY
        offering = [one.slug for one in registry.with_operation(operation) if provider in (None, one.slug)]
        if not offering:
            raise Refusal("not_offered", f"no provider offers {operation}")
        found = await connections.live(connection, tenant, offering, mode)
        if not found:
            raise Refusal("no_connection", f"no connection of the tenant offers {capability} in the mode {mode}")
        order = self._routes.preferred(sorted({one.provider for one in found}), capability, mode)
        return min(found, key=lambda one: order.index(one.provider))

    def contact(self, payment: Payment) -> dict[str, str]:
        """Return the contact of a payment's customer, opened; empty when none is known."""
        if payment.contact is None:
            return {}
        place = contact_place(payment.tenant, payment.provider, payment.external_id)
        contact: dict[str, str] = json.loads(self._keyring.open(payment.contact, place))
        return contact


def as_personal(sealed: bytes | None) -> str:
    """Return sealed arguments as a command carries them."""
    return base64.b64encode(sealed).decode() if sealed else ""


async def _payment(connection: Connection, tenant: str, command: RefundPayment | SendMessage) -> Payment:
    payment = await payments.get(connection, command.payment_id)
    if payment is None or payment.tenant != tenant:
        raise Refusal("unknown_payment", "the tenant has no such payment")
    return payment
