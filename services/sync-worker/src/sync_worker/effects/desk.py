"""Commands meet effects: one effect per key, whatever arrives how often (sync-worker.md §4.5).

RESERVED → SENT → APPLIED | REFUSED | UNKNOWN | VOIDED. This module takes commands inside the consumer's transaction and
writes answers; `executor.py` does the calling. Must never call a provider.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from chassis.clock import Clock
from chassis.db.connection import Connection
from chassis.db.database import UnitOfWork
from chassis.sealing import Keyring
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from contracts.events.orchestrator import Command, RefundPayment, SendMessage
from contracts.events.sync import AnswerStatus, CommandAnswered
from contracts.ids import effect_key
from contracts.topics import SYNC_RESULTS
from providers import registry
from sync_worker.effects.commands import operation_name, request_hash
from sync_worker.metrics import EFFECTS
from sync_worker.models import Connection as ProviderConnection
from sync_worker.models import Effect, Payment
from sync_worker.outbound.route_table import RouteTable
from sync_worker.payments import contact_place
from sync_worker.repository import connections, effects, payments

# States that no further attempt changes; the stored answer is given again.
_FINAL: Final = {
    "applied": AnswerStatus.APPLIED,
    "refused": AnswerStatus.REFUSED,
    "voided": AnswerStatus.VOIDED,
}


class Refusal(Exception):  # noqa: N818 (a business answer, not a fault)
    """A command that can be answered without asking a provider: no."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer says: status, a stable code with its explanation, and when another attempt makes sense."""

    status: AnswerStatus
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a command goes: a connection, and what to remember so that every attempt asks for the same."""

    connection: ProviderConnection
    stored: dict[str, Any]


class EffectDesk:
    """Takes commands. `wake` is set by the executor and called after a commit with the key of a runnable effect."""

    def __init__(self, keyring: Keyring, routes: RouteTable, clock: Clock) -> None:
        self._keyring = keyring
        self._routes = routes
        self._clock = clock
        self.wake: Callable[[str], None] = lambda _key: None

    async def take(self, uow: UnitOfWork, command: Command, trace: str) -> None:
        """Reserve an effect for a new key, hand on a new attempt of a known one, or answer at once."""
        if command.direction == "undo":
            await self._undo(uow, command, trace)
            return
        known = await effects.lock(uow.connection, command.effect_key)
        if known is None:
            await self._reserve(uow, command, trace)
        elif known.state == "voided":
            self._reply(uow, known, command, Verdict(AnswerStatus.REFUSED, "fenced", "its undo came first"))
        elif known.request_hash != request_hash(command):
            detail = "this effect key was used for another request"
            self._reply(uow, known, command, Verdict(AnswerStatus.REFUSED, "effect_key_reused", detail))
        elif known.state in _FINAL:
            known.attempt = known.answered = max(known.attempt, command.attempt)
            await effects.save(uow.connection, known)
            self._reply(uow, known, command, Verdict(_FINAL[known.state], known.code, known.detail))
        elif command.attempt > known.attempt:
            known.attempt, known.trace = command.attempt, trace
            await self._make_runnable(uow, known)

    async def _reserve(self, uow: UnitOfWork, command: Command, trace: str) -> None:
        effect = self._fresh(command, command.effect_key, "reserved", trace)
        effect.request_hash, effect.attempt = request_hash(command), command.attempt
        try:
            target = await self._resolve(uow.connection, command)
        except Refusal as refusal:
            effect.state, effect.code, effect.detail = "refused", refusal.code, refusal.detail
            effect.answered = effect.attempt
            await effects.save(uow.connection, effect)
            self._reply(uow, effect, command, Verdict(AnswerStatus.REFUSED, refusal.code, refusal.detail))
            return
        effect.connection, effect.provider = target.connection.id, target.connection.provider
        deadline = command.deadline.isoformat() if command.deadline else None
        effect.command = target.stored | {"deadline": deadline}
        await self._make_runnable(uow, effect)

    def _fresh(self, command: Command, key: str, state: str, trace: str) -> Effect:
        return Effect(
            key=key,
            saga_id=command.saga_id,
            step=command.step,
            tenant=command.tenant,
            operation=operation_name(command),
            command={},
            request_hash="",
            provider="",
            state=state,
            code="",
            detail="",
            provider_ref="",
            result={},
            attempt=0,
            answered=0,
            calls=0,
            trace=trace,
            lease_until=None,
            sent_at=None,
            updated_at=self._clock.now(),
        )

    async def _make_runnable(self, uow: UnitOfWork, effect: Effect) -> None:
        effect.updated_at = self._clock.now()
        await effects.save(uow.connection, effect)
        uow.after_commit(lambda: self.wake(effect.key))

    async def _undo(self, uow: UnitOfWork, command: Command, trace: str) -> None:
        """Fence the `do` of a step: one that comes later is refused; one that was never sent is voided."""
        do_key = effect_key(str(command.saga_id), command.step, "do")
        known = await effects.lock(uow.connection, do_key)
        if known is None:
            known = self._fresh(command, do_key, "voided", trace)
        elif known.state == "reserved":
            known.state, known.answered, known.updated_at = "voided", known.attempt, self._clock.now()
        elif known.state not in ("refused", "voided"):
            detail = f"the effect is {known.state} and {known.operation} declares no undo"
            self._reply(uow, known, command, Verdict(AnswerStatus.REFUSED, "undo_not_supported", detail))
            return
        await effects.save(uow.connection, known)
        self._reply(uow, known, command, Verdict(AnswerStatus.VOIDED))

    async def _resolve(self, connection: Connection, command: Command) -> Target:
        if isinstance(command, RefundPayment):
            return await self._resolve_refund(connection, command)
        if isinstance(command, SendMessage):
            return await self._resolve_message(connection, command)
        raise Invalid("unknown_command", f"no executor for {command.TYPE}")

    async def _resolve_refund(self, connection: Connection, command: RefundPayment) -> Target:
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
        return Target(found, stored)

    async def _resolve_message(self, connection: Connection, command: SendMessage) -> Target:
        payment = await _payment(connection, command.tenant, command)
        if not self.contact(payment).get("phone"):
            raise Refusal("no_recipient", "no phone number is known for the payment's customer")
        name = operation_name(command)
        offering = [p.slug for p in registry.with_operation(name) if command.capability in p.manifest.capabilities]
        found = await connections.live(connection, command.tenant, offering)
        if not found:
            raise Refusal("no_connection", f"no live connection of the tenant offers {command.capability}")
        open_first = sorted(found, key=lambda one: self._routes.is_shut(one.provider, command.capability))
        return Target(open_first[0], {"payment_id": str(payment.id), "text": command.text})

    def contact(self, payment: Payment) -> dict[str, str]:
        """Return the contact of a payment's customer, opened; empty when none is known."""
        if payment.contact is None:
            return {}
        place = contact_place(payment.tenant, payment.provider, payment.external_id)
        contact: dict[str, str] = json.loads(self._keyring.open(payment.contact, place))
        return contact

    def answer(self, uow: UnitOfWork, effect: Effect, verdict: Verdict) -> None:
        """Answer the newest attempt of an effect, in the transaction that changes its state. Marks it answered."""
        effect.answered = effect.attempt
        self._publish(uow, effect, (effect.step, "do", effect.key, effect.attempt), verdict)

    def _reply(self, uow: UnitOfWork, effect: Effect, command: Command, verdict: Verdict) -> None:
        place = (command.step, command.direction, command.effect_key, command.attempt)
        self._publish(uow, effect, place, verdict)

    def _publish(
        self, uow: UnitOfWork, effect: Effect, place: tuple[str, Literal["do", "undo"], str, int], verdict: Verdict
    ) -> None:
        step, direction, key, attempt = place
        counter(EFFECTS).labels(effect.operation, verdict.status).inc()
        answered = CommandAnswered(
            saga_id=effect.saga_id,
            step=step,
            direction=direction,
            effect_key=key,
            attempt=attempt,
            status=verdict.status,
            code=verdict.code,
            detail=verdict.detail,
            retry_after_s=verdict.retry_after_s,
            provider=effect.provider,
            provider_ref=effect.provider_ref,
            result=effect.result,
            answered_at=self._clock.now(),
        )
        uow.emit(
            SYNC_RESULTS,
            str(effect.saga_id),
            answered,
            tenant=effect.tenant,
            trace=effect.trace or None,
            message_id=f"{key}:{attempt}",
        )


async def _payment(connection: Connection, tenant: str, command: RefundPayment | SendMessage) -> Payment:
    payment = await payments.get(connection, command.payment_id)
    if payment is None or payment.tenant != tenant:
        raise Refusal("unknown_payment", "the tenant has no such payment")
    return payment
