"""Runs effects against providers: SENT is committed before the request leaves, the answer with the new state after it.

A worker that dies in between leaves a lease that runs out; whoever finds it asks the provider what happened and never
sends blindly again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from opentelemetry.trace import SpanKind

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.telemetry.logs import logger
from chassis.telemetry.traces import start_span
from contracts.events.sync import AnswerStatus
from providers import registry
from providers.manifest import OperationSpec
from providers.provider import Provider
from providers.sdk import Account, Declined, HttpResponse, Operation
from sync_worker.commands import MESSAGE, to_operation
from sync_worker.effects import EffectDesk, Verdict
from sync_worker.models import Effect
from sync_worker.outbound import CallPlan, CallResult, ProviderClient
from sync_worker.repository import effects, payments
from sync_worker.routing import RouteTable
from sync_worker.vault import Vault

log = logger(__name__)

# Longer than any call: a lease that ends earlier would make a second worker ask about a call that still runs.
LEASE_MARGIN_S: Final = 5.0
REPAIR_INTERVAL_S: Final = 2.0
REPAIR_BATCH: Final = 100
# A provider's read-back may lag behind its writes; absence means something only after this long.
CONSISTENCY_LAG_S: Final = 2.0
PARKED_RETRY_S: Final = 5.0
UNKNOWN_RETRY_S: Final = 2.0
TRANSIENT_RETRY_S: Final = 2.0
CREDENTIAL_RETRY_S: Final = 30.0
_UNAUTHORISED: Final = (401, 403)
_AMBIGUOUS_CLIENT_ERRORS: Final = (408, 409, 425)
_NOT_OFFERED: Final = Verdict(AnswerStatus.REFUSED, "not_offered", "the provider does not offer this operation")
# PARKED leaves the state alone: it says something about the route, not about the effect.
_STATE_AFTER: Final = {
    AnswerStatus.APPLIED: "applied",
    AnswerStatus.REFUSED: "refused",
    AnswerStatus.TRANSIENT: "reserved",
    AnswerStatus.UNKNOWN: "unknown",
}

Action = Literal["send", "read_back"]


@dataclass(frozen=True, slots=True)
class _Job:
    """A claimed effect, and everything that its call needs, read in the claiming transaction."""

    effect: Effect
    action: Action
    provider: Provider
    spec: OperationSpec
    operation: Operation
    account: Account


class Executor:
    """A bounded number of provider calls at a time, fed by commits in this process and by a repair scan."""

    def __init__(
        self,
        database: Database,
        desk: EffectDesk,
        client: ProviderClient,
        *,
        vault: Vault,
        routes: RouteTable,
        clock: Clock,
        width: int,
    ) -> None:
        self._database = database
        self._desk = desk
        self._client = client
        self._vault = vault
        self._routes = routes
        self._clock = clock
        self._width = width
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._queued: set[str] = set()
        desk.wake = self.wake

    def wake(self, key: str) -> None:
        """Ask for an effect to be run; an effect that waits already is not queued twice."""
        if key not in self._queued:
            self._queued.add(key)
            self._queue.put_nowait(key)

    async def run(self) -> None:
        """Work until cancelled. A call that is cut off leaves its effect SENT, which the next repair resolves."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._width):
                tasks.create_task(self._work())
            tasks.create_task(self._repair())

    async def _repair(self) -> None:
        while True:
            try:
                async with self._database.connection() as connection:
                    for key in await effects.unanswered(connection, self._clock.now(), REPAIR_BATCH):
                        self.wake(key)
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._clock.sleep(REPAIR_INTERVAL_S)

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            self._queued.discard(key)
            try:
                await self.execute(key)
            except Exception as error:
                log.error("effect_interrupted", effect=key, exc_info=error)
                await self._clock.sleep(TRANSIENT_RETRY_S)

    async def execute(self, key: str) -> None:
        """Take one effect one step further: claim, call, settle. Does nothing when there is nothing to do."""
        async with self._database.unit_of_work() as uow:
            job = await self._claim(uow, key)
        if job is None:
            return
        span = start_span(
            f"{job.action} {job.effect.operation}",
            parent=job.effect.trace or None,
            kind=SpanKind.CLIENT,
            attributes={"patchbay.provider": job.provider.slug, "patchbay.effect": key},
        )
        try:
            result = await self._call(job)
            span.set_attribute("patchbay.outcome", result.outcome)
        finally:
            span.end()
        async with self._database.unit_of_work() as uow:
            await self._settle(uow, job, result)

    async def _claim(self, uow: UnitOfWork, key: str) -> _Job | None:
        effect = await effects.lock_if_free(uow.connection, key)
        now = self._clock.now()
        if effect is None or effect.attempt <= effect.answered or _leased(effect, now):
            return None
        if effect.state == "sent":
            effect.state = "unknown"
        provider = registry.get(effect.provider)
        spec = provider.manifest.operation(effect.operation)
        if spec is None:
            await self._answer(uow, effect, _NOT_OFFERED)
            return None
        account = await self._vault.account(uow.connection, effect.connection)
        lifetime_h = provider.key_lifetime_h(effect.operation, account.options)
        plan = self._plan(effect, spec, lifetime_h, now)
        if isinstance(plan, Verdict):
            await self._answer(uow, effect, plan)
            return None
        contact: dict[str, str] = {}
        if effect.operation == MESSAGE:
            payment = await payments.get(uow.connection, effect.command["payment_id"])
            contact = self._desk.contact(payment) if payment else {}
        if plan == "send":
            effect.state, effect.sent_at, effect.calls = "sent", now, effect.calls + 1
        effect.lease_until = now + timedelta(seconds=spec.timeout_s + LEASE_MARGIN_S)
        effect.updated_at = now
        await effects.save(uow.connection, effect)
        operation = to_operation(effect.operation, effect.key, effect.command, contact)
        return _Job(effect, plan, provider, spec, operation, account)

    def _plan(self, effect: Effect, spec: OperationSpec, lifetime_h: float | None, now: datetime) -> Action | Verdict:
        """Return what to do with a claimed effect, or the answer when nothing can be done now."""
        if effect.state == "reserved" and _expired(effect, now):
            return Verdict(AnswerStatus.REFUSED, "deadline_over", "not sent before its deadline")
        if self._routes.is_shut(effect.provider, spec.capability):
            detail = f"the provider is down for {spec.capability}"
            return Verdict(AnswerStatus.PARKED, "route_shut", detail, PARKED_RETRY_S)
        if effect.state == "reserved":
            return "send"
        if lifetime_h and effect.sent_at and now - effect.sent_at < timedelta(hours=lifetime_h):
            # The provider recognises the key, so sending again cannot have a second effect.
            return "send"
        if spec.read_back:
            return "read_back"
        detail = "the outcome is unknown and the provider cannot be asked"
        return Verdict(AnswerStatus.UNKNOWN, "needs_settlement", detail)

    async def _call(self, job: _Job) -> CallResult:
        operations = job.provider.operations(job.effect.operation)
        name = job.effect.operation
        if job.action == "send":
            request = operations.build(job.operation, job.account)
        else:
            name = f"{name}.read_back"
            asked = operations.read_back(job.operation, job.account)
            if asked is None:
                raise RuntimeError(f"{job.provider.slug} declares a read-back for {job.effect.operation} and has none")
            request = asked
        plan = CallPlan(
            provider=job.provider,
            capability=job.spec.capability,
            operation=name,
            tenant=job.effect.tenant,
            credential=str(job.effect.connection),
            timeout_s=job.spec.timeout_s,
        )
        return await self._client.call(plan, request)

    async def _settle(self, uow: UnitOfWork, job: _Job, result: CallResult) -> None:
        """Write what the call proved, and answer. Another worker that took over after the lease keeps its word."""
        effect = await effects.lock(uow.connection, job.effect.key)
        if effect is None or effect.lease_until != job.effect.lease_until:
            return
        effect.lease_until = None
        if job.action == "send":
            await self._settle_send(uow, job, effect, result)
        else:
            await self._settle_read_back(uow, job, effect, result)

    async def _settle_send(self, uow: UnitOfWork, job: _Job, effect: Effect, result: CallResult) -> None:
        status = result.response.status if result.response else 0
        if status in _UNAUTHORISED:
            detail = f"the provider answered {status}"
            verdict = Verdict(AnswerStatus.TRANSIENT, "credential_refused", detail, CREDENTIAL_RETRY_S)
        elif result.provably_unsent:
            retry = result.retry_after_s or TRANSIENT_RETRY_S
            verdict = Verdict(AnswerStatus.TRANSIENT, result.outcome, "not applied", retry)
        elif result.response is None or result.outcome == "server_error" or status in _AMBIGUOUS_CLIENT_ERRORS:
            detail = "it may or may not have been applied"
            verdict = Verdict(AnswerStatus.UNKNOWN, result.outcome, detail, UNKNOWN_RETRY_S)
        else:
            verdict = _parsed(job, effect, result.response)
        await self._answer(uow, effect, verdict)

    async def _settle_read_back(self, uow: UnitOfWork, job: _Job, effect: Effect, result: CallResult) -> None:
        if result.outcome != "success" or result.response is None:
            retry = result.retry_after_s or UNKNOWN_RETRY_S
            verdict = Verdict(AnswerStatus.UNKNOWN, result.outcome, "the provider could not be asked", retry)
            await self._answer(uow, effect, verdict)
            return
        found = job.provider.operations(effect.operation).parse_read_back(job.operation, result.response)
        if found is not None:
            effect.provider_ref, effect.result = found.provider_ref, dict(found.result)
            await self._answer(uow, effect, Verdict(AnswerStatus.APPLIED))
            return
        waited = (self._clock.now() - effect.sent_at).total_seconds() if effect.sent_at else CONSISTENCY_LAG_S
        if waited < CONSISTENCY_LAG_S:
            detail = "the provider does not show it yet"
            verdict = Verdict(AnswerStatus.UNKNOWN, "read_back_too_early", detail, CONSISTENCY_LAG_S)
            await self._answer(uow, effect, verdict)
            return
        effect.state = "reserved"
        await effects.save(uow.connection, effect)
        uow.after_commit(lambda: self.wake(effect.key))

    async def _answer(self, uow: UnitOfWork, effect: Effect, verdict: Verdict) -> None:
        """Bring the effect to the state that the verdict stands for, and answer; the orchestrator owns any timer."""
        effect.state = _STATE_AFTER.get(verdict.status, effect.state)
        if verdict.status in (AnswerStatus.APPLIED, AnswerStatus.REFUSED):
            effect.code, effect.detail = verdict.code, verdict.detail
        effect.updated_at = self._clock.now()
        self._desk.answer(uow, effect, verdict)
        await effects.save(uow.connection, effect)


def _parsed(job: _Job, effect: Effect, response: HttpResponse) -> Verdict:
    try:
        parsed = job.provider.operations(effect.operation).parse(response)
    except Exception as error:  # noqa: BLE001 (an answer that cannot be read proves nothing)
        log.error("answer_unreadable", effect=effect.key, error=type(error).__name__)
        detail = "the provider answered something that cannot be read"
        return Verdict(AnswerStatus.UNKNOWN, "answer_unreadable", detail, UNKNOWN_RETRY_S)
    if isinstance(parsed, Declined):
        return Verdict(AnswerStatus.REFUSED, parsed.code, parsed.detail)
    effect.provider_ref, effect.result = parsed.provider_ref, dict(parsed.result)
    return Verdict(AnswerStatus.APPLIED)


def _leased(effect: Effect, now: datetime) -> bool:
    return effect.lease_until is not None and effect.lease_until > now


def _expired(effect: Effect, now: datetime) -> bool:
    deadline: Any = effect.command.get("deadline")
    return deadline is not None and datetime.fromisoformat(deadline) <= now
