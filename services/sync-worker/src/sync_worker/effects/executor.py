"""Runs effects against providers: SENT is committed before the request leaves, the answer with the new state after it.

A worker that dies in between leaves a lease that runs out; whoever finds it asks the provider what happened and never
sends blindly again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from opentelemetry.trace import SpanKind

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from chassis.telemetry.traces import start_span
from contracts.errors import Invalid, Terminal, Transient
from contracts.events.sync import AnswerStatus
from contracts.operations import Arguments
from providers import registry
from providers.manifest import OperationSpec
from providers.provider import Provider
from providers.sdk import Declined, HttpRequest, HttpResponse
from sync_worker.connections.vault import Vault
from sync_worker.effects.commands import MESSAGE, to_operation
from sync_worker.effects.desk import EffectDesk, Verdict
from sync_worker.models import Effect
from sync_worker.outbound.client import CallPlan, CallResult, ProviderClient
from sync_worker.outbound.route_table import RouteTable
from sync_worker.repository import effects, payments

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
# Most calls end within a second; one that is cut off is asked about later.
DRAIN_S: Final = 5.0
_UNAUTHORISED: Final = (401, 403)
_AMBIGUOUS_CLIENT_ERRORS: Final = (408, 409, 425)
_NEEDS_SETTLEMENT: Final = Verdict(
    AnswerStatus.UNKNOWN, "needs_settlement", "the outcome is unknown and the provider cannot be asked"
)
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
    """A claimed effect with its request, built before anything is marked as sent.

    `resend` says that an earlier request with the same key may have had the effect already.
    """

    effect: Effect
    action: Action
    resend: bool
    provider: Provider
    spec: OperationSpec
    operation: Arguments
    request: HttpRequest


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
        self._slots = asyncio.Semaphore(width)
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

    async def drain(self) -> None:
        """Start no call any more and wait up to `DRAIN_S` for those in flight."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                for _ in range(self._width):
                    await self._slots.acquire()

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
                async with self._slots:
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
        try:
            job = await self._prepare(uow, effect, now)
        except (Invalid, Terminal) as error:
            job = _impossible(effect, error)
        except SealError:
            job = _not_applied(effect.state, "credential_unreadable", "no key opens it", CREDENTIAL_RETRY_S)
        if isinstance(job, Verdict):
            await self._answer(uow, effect, job)
            return None
        if job.action == "send":
            # The provider counts a key's lifetime from its first use, so sending again does not renew it.
            effect.sent_at = effect.sent_at if job.resend else now
            effect.state, effect.calls = "sent", effect.calls + 1
        effect.lease_until = now + timedelta(seconds=job.spec.timeout_s + LEASE_MARGIN_S)
        effect.updated_at = now
        await effects.save(uow.connection, effect)
        return job

    async def _prepare(self, uow: UnitOfWork, effect: Effect, now: datetime) -> _Job | Verdict:
        """Return the next call of an effect, or the answer when there is none to make.

        Raises `Invalid` or `Terminal` when the request cannot be built: the connection is gone or lacks something.
        """
        provider = registry.get(effect.provider)
        operations = provider.operations(effect.operation)
        spec = provider.manifest.operation(effect.operation)
        if spec is None:
            raise Invalid("unknown_operation", f"{effect.provider} does not offer {effect.operation}")
        account = await self._vault.account(uow.connection, effect.connection)
        lifetime_h = provider.key_lifetime_h(effect.operation, account.options)
        action = self._plan(effect, spec, lifetime_h, now)
        if isinstance(action, Verdict):
            return action
        contact: dict[str, str] = {}
        if effect.operation == MESSAGE:
            payment = await payments.get(uow.connection, effect.command["payment_id"])
            contact = self._desk.contact(payment) if payment else {}
        operation = to_operation(effect.operation, effect.key, effect.command, contact)
        request = operations.build(operation, account) if action == "send" else operations.read_back(operation, account)
        if request is None:
            return _NEEDS_SETTLEMENT
        return _Job(effect, action, effect.state == "unknown", provider, spec, operation, request)

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
        return _NEEDS_SETTLEMENT

    async def _call(self, job: _Job) -> CallResult:
        operation = job.effect.operation if job.action == "send" else f"{job.effect.operation}.read_back"
        plan = CallPlan(
            provider=job.provider,
            capability=job.spec.capability,
            operation=operation,
            tenant=job.effect.tenant,
            credential=str(job.effect.connection),
            timeout_s=job.spec.timeout_s,
        )
        return await self._client.call(plan, job.request)

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
        before = "unknown" if job.resend else "reserved"
        if status in _UNAUTHORISED:
            detail = f"the provider answered {status}"
            verdict = _not_applied(before, "credential_refused", detail, CREDENTIAL_RETRY_S)
        elif result.provably_unsent:
            verdict = _not_applied(before, result.outcome, "not applied", result.retry_after_s or TRANSIENT_RETRY_S)
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
        try:
            found = job.provider.operations(effect.operation).parse_read_back(job.operation, result.response)
        except (Invalid, Transient) as error:
            await self._answer(uow, effect, Verdict(AnswerStatus.UNKNOWN, error.code, error.detail, UNKNOWN_RETRY_S))
            return
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


def _impossible(effect: Effect, error: Invalid | Terminal) -> Verdict:
    """Return the answer when no request can be made: a refusal only if none was ever sent."""
    if effect.state == "reserved":
        return Verdict(AnswerStatus.REFUSED, error.code, error.detail)
    return Verdict(AnswerStatus.UNKNOWN, _NEEDS_SETTLEMENT.code, f"{_NEEDS_SETTLEMENT.detail}: {error.detail}")


def _not_applied(before: str, code: str, detail: str, retry_after_s: float) -> Verdict:
    """Return the answer to an attempt without effect; what an earlier one did stays unknown if it was."""
    status = AnswerStatus.UNKNOWN if before == "unknown" else AnswerStatus.TRANSIENT
    return Verdict(status, code, detail, retry_after_s)


def _parsed(job: _Job, effect: Effect, response: HttpResponse) -> Verdict:
    try:
        parsed = job.provider.operations(effect.operation).parse(job.operation, response)
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
