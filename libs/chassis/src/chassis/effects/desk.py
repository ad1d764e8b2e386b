"""Commands meet effects, inside of the consumer's transaction: reserve, hand on, answer again, fence.

Must never carry an effect out: that is the executor's, after the commit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.effects import table
from chassis.effects.metrics import ANSWERS, REUSED
from chassis.effects.participant import Participant, Refusal, Target
from chassis.effects.states import FINAL, TRANSIENT_RETRY_S, Effect, Verdict
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from contracts.events.orchestrator import Command
from contracts.events.sync import AnswerStatus, CommandAnswered
from contracts.ids import effect_key
from contracts.topics import Topic

log = logger(__name__)

Place = tuple[str, Literal["do", "undo"], str, int]


def request_hash(command: Command) -> str:
    """Return a digest of what is asked for: equal for all attempts, different for another request."""
    document = command.model_dump(mode="json", exclude={"attempt", "deadline", "lane", "personal"})
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class EffectDesk:
    """Takes commands. `wake` is set by the executor and called after a commit with each runnable effect."""

    def __init__(self, participant: Participant, answers: Topic, clock: Clock) -> None:
        self._participant = participant
        self._answers = answers
        self._clock = clock
        self.wake: Callable[[Effect], None] = lambda _effect: None

    async def take(self, uow: UnitOfWork, commands: Sequence[tuple[Command, str]], *, origin: str = "saga") -> None:
        """Take commands with the trace of each, in order: reserve new effects, hand on attempts, answer the rest."""
        keys = {one.effect_key for one, _ in commands}
        keys |= {_do_key(one) for one, _ in commands if one.direction == "undo"}
        known = await table.lock(uow.connection, keys)
        touched: dict[str, Effect] = {}
        for command, trace in commands:
            if command.direction == "undo":
                changed = await self._undo(uow, command, known, trace)
            else:
                changed = await self._do(uow, command, known, trace, origin)
            for effect in changed:
                known[effect.key] = touched[effect.key] = effect
        await table.save(uow.connection, list(touched.values()))
        for effect in touched.values():
            if effect.attempt > effect.answered:
                uow.after_commit(lambda effect=effect: self.wake(effect))  # type: ignore[misc]

    async def _do(
        self, uow: UnitOfWork, command: Command, known: dict[str, Effect], trace: str, origin: str
    ) -> list[Effect]:
        effect = known.get(command.effect_key)
        if effect is None:
            return [await self._reserve(uow, command, trace, origin)]
        if effect.state == "voided":
            self._reply(uow, effect, command, Verdict(AnswerStatus.REFUSED, "fenced", "its undo came first"))
            return []
        if effect.request_hash != request_hash(command):
            counter(REUSED).inc()
            log.error("effect_key_reused", effect=effect.key, saga=str(command.saga_id), step=command.step)
            detail = "this effect key was used for another request"
            self._reply(uow, effect, command, Verdict(AnswerStatus.REFUSED, "effect_key_reused", detail))
            return []
        if effect.state in FINAL:
            effect.attempt = effect.answered = max(effect.attempt, command.attempt)
            self._reply(uow, effect, command, Verdict(FINAL[effect.state], effect.code, effect.detail))
            return [effect]
        if command.attempt <= effect.attempt:
            return []
        effect.attempt, effect.trace, effect.parked_until = command.attempt, trace, None
        return [effect]

    async def _reserve(self, uow: UnitOfWork, command: Command, trace: str, origin: str) -> Effect:
        effect = self._fresh(command, command.effect_key, trace, origin)
        effect.request_hash, effect.attempt = request_hash(command), command.attempt
        try:
            _aim(effect, await self._participant.resolve(uow.connection, command))
        except Refusal as refusal:
            effect.state, effect.code, effect.detail = "refused", refusal.code, refusal.detail
            effect.answered = effect.attempt
            self._reply(uow, effect, command, Verdict(AnswerStatus.REFUSED, refusal.code, refusal.detail))
        return effect

    async def _undo(self, uow: UnitOfWork, command: Command, known: dict[str, Effect], trace: str) -> list[Effect]:
        """Fence the `do` of a step: one that comes later is refused, one that was never sent is voided.

        What was done is taken back by an effect of its own; what nobody knows is looked up first.
        """
        done = known.get(_do_key(command))
        if done is None:
            done = self._fresh(command, _do_key(command), trace, "saga")
            done.direction = "do"
            return [self._void(uow, done, command)]
        if done.state == "reserved":
            return [self._void(uow, done, command)]
        if done.state in ("refused", "voided"):
            self._reply(uow, done, command, Verdict(AnswerStatus.VOIDED))
            return []
        if done.state in ("sent", "unknown"):
            detail = f"the effect is {done.state}; it is looked up first"
            verdict = Verdict(AnswerStatus.TRANSIENT, "outcome_unknown", detail, TRANSIENT_RETRY_S)
            self._reply(uow, done, command, verdict)
            if done.attempt > done.answered:
                return []
            done.attempt, done.trace = done.attempt + 1, trace
            return [done]
        return await self._take_back(uow, command, done, known, trace)

    async def _take_back(
        self, uow: UnitOfWork, command: Command, done: Effect, known: dict[str, Effect], trace: str
    ) -> list[Effect]:
        undoing = known.get(command.effect_key)
        if undoing is not None:
            if undoing.state in FINAL:
                undoing.attempt = undoing.answered = max(undoing.attempt, command.attempt)
                self._reply(uow, undoing, command, Verdict(FINAL[undoing.state], undoing.code, undoing.detail))
                return [undoing]
            if command.attempt > undoing.attempt:
                undoing.attempt, undoing.trace = command.attempt, trace
                return [undoing]
            return []
        try:
            target = await self._participant.undo(uow.connection, done, command)
        except Refusal as refusal:
            self._reply(uow, done, command, Verdict(AnswerStatus.REFUSED, refusal.code, refusal.detail))
            return []
        if target is None:
            detail = f"the effect is applied and {done.operation} has no undo"
            self._reply(uow, done, command, Verdict(AnswerStatus.REFUSED, "undo_not_supported", detail))
            return []
        undoing = self._fresh(command, command.effect_key, trace, "saga")
        undoing.request_hash, undoing.attempt = request_hash(command), command.attempt
        _aim(undoing, target)
        return [undoing]

    def _void(self, uow: UnitOfWork, done: Effect, command: Command) -> Effect:
        done.state, done.answered, done.updated_at = "voided", done.attempt, self._clock.now()
        done.version += 1
        self._reply(uow, done, command, Verdict(AnswerStatus.VOIDED))
        return done

    def _fresh(self, command: Command, key: str, trace: str, origin: str) -> Effect:
        return Effect(
            key=key,
            saga_id=command.saga_id,
            step=command.step,
            direction=command.direction,
            tenant=command.tenant,
            lane=command.lane,
            operation=command.TYPE.rpartition(".")[0],
            command={},
            personal=None,
            request_hash="",
            deadline=command.deadline,
            connection=None,
            provider="",
            state="reserved",
            code="",
            detail="",
            provider_ref="",
            result={},
            attempt=0,
            answered=0,
            calls=0,
            version=0,
            trace=trace,
            origin=origin,
            lease_until=None,
            sent_at=None,
            parked_until=None,
            updated_at=self._clock.now(),
        )

    def answer(self, uow: UnitOfWork, effect: Effect, verdict: Verdict) -> None:
        """Answer the newest attempt of an effect, in the transaction that changes its state."""
        self._publish(uow, effect, (effect.step, effect.direction, effect.key, effect.attempt), verdict)

    def _reply(self, uow: UnitOfWork, effect: Effect, command: Command, verdict: Verdict) -> None:
        place: Place = (command.step, command.direction, command.effect_key, command.attempt)
        self._publish(uow, effect, place, verdict)

    def _publish(self, uow: UnitOfWork, effect: Effect, place: Place, verdict: Verdict) -> None:
        step, direction, key, attempt = place
        counter(ANSWERS).labels(effect.operation, verdict.status).inc()
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
            self._answers,
            str(effect.saga_id),
            answered,
            tenant=effect.tenant,
            trace=effect.trace or None,
            message_id=f"{key}:{attempt}",
        )


def _aim(effect: Effect, target: Target) -> None:
    effect.operation, effect.command, effect.personal = target.operation, target.command, target.personal
    effect.provider, effect.connection = target.provider, target.connection


def _do_key(command: Command) -> str:
    return effect_key(str(command.saga_id), command.step, "do")
