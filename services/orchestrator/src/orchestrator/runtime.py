"""Runs transitions against the database: state, timeline, timers and commands commit together or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from contracts.events.orchestrator import Command, SagaAdvanced
from contracts.events.platform import AuditRecorded
from contracts.ids import effect_key, uuid7
from contracts.topics import ORCHESTRATOR_COMMANDS, ORCHESTRATOR_SAGA_EVENTS, PLATFORM_AUDIT
from orchestrator import repository
from orchestrator.catalogue import StartRequest, definition_of
from orchestrator.definition import COMMANDS, Definition, resolve
from orchestrator.engine import Input, Order, SagaState, Started, StepState, TimerFired, Transition, initial, transition
from orchestrator.metrics import ANSWERS_IGNORED, SAGAS_ENDED, SAGAS_STARTED
from orchestrator.metrics import COMMANDS as COMMANDS_GIVEN
from orchestrator.models import Saga, Timer
from providers import registry

log = logger(__name__)

TIMER_BATCH: Final = 200
# A timer whose run cannot take it (its definition is gone, say) is tried again when somebody may have repaired that.
FAILED_TIMER_DELAY_S: Final = 60.0


class Runtime:
    """Starts runs and feeds them inputs."""

    def __init__(self, clock: Clock, jitter: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._jitter = jitter

    async def start(self, uow: UnitOfWork, request: StartRequest, *, started_by: str, trace: str) -> tuple[Saga, bool]:
        """Start a run, or find the one that its business key has already; the flag tells whether it is new.

        Raises `Invalid` (`operation_not_offered`) for a definition with a step that no provider can carry out: better
        now than half-way.
        """
        definition, given = request.definition, request.given
        check_offered(definition)
        now = self._clock.now()
        saga = Saga(
            id=uuid7(),
            tenant=given.tenant,
            definition=definition.name,
            version=definition.version,
            business_key=given.business_key,
            status="running",
            given=given.model_dump(mode="json"),
            state=_dump(initial(definition)),
            trace=trace,
            started_by=started_by,
            created_at=now,
            updated_at=now,
        )
        if not await repository.insert(uow.connection, saga):
            known = await repository.find(uow.connection, saga.tenant, saga.definition, saga.business_key)
            if known is None:
                raise RuntimeError("a saga's business key vanished within a transaction")
            return known, False
        counter(SAGAS_STARTED).labels(saga.definition).inc()
        self._audit(uow, saga, request.cause)
        await self._apply(uow, saga, definition, Started(), trace)
        return saga, True

    async def feed(self, uow: UnitOfWork, saga_id: UUID, given: Input, trace: str | None) -> None:
        """Apply an input to a run. An unknown run is logged: its answer has nowhere to go."""
        saga = await repository.lock(uow.connection, saga_id)
        if saga is None:
            counter(ANSWERS_IGNORED).inc()
            log.warning("saga_unknown", saga=str(saga_id))
            return
        definition = definition_of(saga.definition, saga.version)
        await self._apply(uow, saga, definition, given, trace or saga.trace)

    async def _apply(self, uow: UnitOfWork, saga: Saga, definition: Definition, given: Input, trace: str) -> None:
        out = transition(definition, _load(saga.state), given, self._jitter)
        now = self._clock.now()
        ended = out.state.status != saga.status and out.state.status not in ("running", "waiting")
        saga.state, saga.status, saga.updated_at = _dump(out.state), out.state.status, now
        await repository.save(uow.connection, saga, out.entries)
        due = [Timer(saga_id=saga.id, step=t.step, attempt=t.attempt, due_at=now + timedelta(seconds=t.delay_s))
               for t in out.timers]  # fmt: skip
        await repository.set_timers(uow.connection, due)
        for order in out.orders:
            command = _command(saga, definition, out.state, order)
            counter(COMMANDS_GIVEN).labels(saga.definition, order.step.name).inc()
            uow.emit(
                ORCHESTRATOR_COMMANDS[definition.lane],
                f"{saga.id}:{order.step.name}",
                command,
                tenant=saga.tenant,
                trace=trace or None,
                message_id=f"{command.effect_key}:{order.attempt}",
            )
        self._tell(uow, saga, out, trace)
        if ended:
            counter(SAGAS_ENDED).labels(saga.definition, saga.status).inc()

    def _tell(self, uow: UnitOfWork, saga: Saga, out: Transition, trace: str) -> None:
        for entry in out.entries:
            advanced = SagaAdvanced(
                saga_id=saga.id,
                tenant=saga.tenant,
                definition=saga.definition,
                definition_version=saga.version,
                seq=entry.seq,
                status=saga.status,
                entry=entry.entry,
                step=entry.step,
                detail=entry.detail,
                at=saga.updated_at,
            )
            message_id = f"{saga.id}:{entry.seq}"
            uow.emit(
                ORCHESTRATOR_SAGA_EVENTS,
                str(saga.id),
                advanced,
                tenant=saga.tenant,
                trace=trace or None,
                message_id=message_id,
            )

    def _audit(self, uow: UnitOfWork, saga: Saga, cause: str) -> None:
        recorded = AuditRecorded(
            audit_id=uuid7(),
            tenant=saga.tenant,
            service="orchestrator",
            actor=saga.started_by,
            action="saga.started",
            target=f"saga/{saga.id}",
            at=saga.created_at,
            detail={"definition": saga.definition, "cause": cause},
        )
        uow.emit(PLATFORM_AUDIT, saga.tenant, recorded, tenant=saga.tenant)


class TimerPoller:
    """Fires due timers until cancelled; several replicas may run one each."""

    def __init__(self, database: Database, runtime: Runtime, clock: Clock, *, interval_s: float) -> None:
        self._database = database
        self._runtime = runtime
        self._clock = clock
        self._interval_s = interval_s

    async def run(self) -> None:
        """Poll; waits out a database outage."""
        while True:
            try:
                fired = await self.fire_due()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                fired = 0
            if fired < TIMER_BATCH:
                await self._clock.sleep(self._interval_s)

    async def fire_due(self) -> int:
        """Fire what is due now; returns how many timers that were.

        Each in a transaction of its own: a run that cannot go on holds up no other one, and two locked runs at a time
        could deadlock with a batch of answers.
        """
        async with self._database.connection() as connection:
            due = await repository.due_timers(connection, self._clock.now(), TIMER_BATCH)
        for saga_id, step in due:
            try:
                await self._fire(saga_id, step)
            except Exception as error:
                if is_unavailable(error):
                    raise
                log.error("timer_failed", saga=str(saga_id), step=step, exc_info=error)
                await self._postpone(saga_id, step)
        return len(due)

    async def _fire(self, saga_id: UUID, step: str) -> None:
        async with self._database.unit_of_work() as uow:
            timer = await repository.take_timer(uow.connection, saga_id, step, self._clock.now())
            if timer is not None:
                await self._runtime.feed(uow, saga_id, TimerFired(step, timer.attempt), None)

    async def _postpone(self, saga_id: UUID, step: str) -> None:
        again = self._clock.now() + timedelta(seconds=FAILED_TIMER_DELAY_S)
        async with self._database.unit_of_work() as uow:
            await repository.postpone_timer(uow.connection, saga_id, step, again)


def check_offered(definition: Definition) -> None:
    """Refuse a definition with a step that no provider can carry out; raises `Invalid` (`operation_not_offered`)."""
    for step in definition.steps:
        if step.operation and not registry.with_operation(step.operation):
            detail = f"step {step.name}: no provider offers {step.operation}"
            raise Invalid("operation_not_offered", detail, field=f"steps.{step.name}")


def _command(saga: Saga, definition: Definition, state: SagaState, order: Order) -> Command:
    results = {name: step.result for name, step in state.steps.items()}
    return COMMANDS[order.step.command].model_validate(
        resolve(order.step.arguments, saga.given, results)
        | {
            "saga_id": saga.id,
            "step": order.step.name,
            "effect_key": effect_key(str(saga.id), order.step.name, "do"),
            "attempt": order.attempt,
            "tenant": saga.tenant,
            "lane": definition.lane,
        }
    )


def _dump(state: SagaState) -> dict[str, Any]:
    return asdict(state)


def _load(stored: dict[str, Any]) -> SagaState:
    steps = {name: StepState(**step) for name, step in stored["steps"].items()}
    return SagaState(status=stored["status"], steps=steps, seq=stored["seq"])
