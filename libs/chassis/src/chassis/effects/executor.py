"""Carries effects out: SENT is committed before anything leaves, the answer with the new state after it.

A worker that dies in between leaves a lease that runs out; whoever finds it asks what happened and never sends blindly
again. Commits are shared by whoever waits for one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Final

from opentelemetry.trace import Span, SpanKind

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.db.group_commit import GroupCommit
from chassis.effects import table
from chassis.effects.desk import EffectDesk
from chassis.effects.metrics import OPEN
from chassis.effects.participant import Participant, Prepared
from chassis.effects.states import (
    NEEDS_SETTLEMENT,
    Action,
    Effect,
    Outcome,
    Refused,
    Settled,
    Unclear,
    Verdict,
    plan,
    runnable,
    settle,
)
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from chassis.telemetry.traces import begin_trace, sampled
from contracts.events.sync import AnswerStatus
from contracts.topics import Lane

log = logger(__name__)

# Longer than any call: a lease that ends earlier would make a second worker ask about a call that still runs.
LEASE_MARGIN_S: Final = 5.0
REPAIR_INTERVAL_S: Final = 2.0
REPAIR_BATCH: Final = 200
# Effects that a person asked for have no orchestrator that would ask again.
OPERATOR: Final = "operator"
# The same, drawing on the quota that is kept for emergencies. No message of a topic has either origin.
EMERGENCY: Final = "operator-emergency"
INTERRUPTED_RETRY_S: Final = 2.0
# Most calls end within a second; one that is cut off is asked about later.
DRAIN_S: Final = 5.0
# Of twelve turns critical effects have eight and bulk has one, so that bulk is slow beside the others, and never stops.
TURNS: Final = (
    *(Lane.CRITICAL, Lane.CRITICAL, Lane.STANDARD, Lane.CRITICAL, Lane.CRITICAL, Lane.STANDARD),
    *(Lane.CRITICAL, Lane.CRITICAL, Lane.BULK, Lane.CRITICAL, Lane.CRITICAL, Lane.STANDARD),
)


# Taken over for a call: key, version, whether it sends, lease. Settled: key, version, what is proved.
_Change = tuple[str, int, bool, datetime] | tuple[str, int, Settled]
_MARK: Final = 4


class Queue:
    """Runnable effects by lane; an effect that waits already is not queued twice."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, deque[Effect]] = {lane: deque() for lane in Lane}
        self._keys: set[str] = set()
        self._turn = 0
        self._filled = asyncio.Event()

    def put(self, effect: Effect) -> None:
        """Add an effect, unless it waits."""
        if effect.key not in self._keys:
            self._keys.add(effect.key)
            self._lanes[effect.lane].append(effect)
            self._filled.set()

    async def get(self) -> Effect:
        """Return the next effect by the weights of the lanes; waits for one."""
        while not self._keys:
            self._filled.clear()
            await self._filled.wait()
        while True:
            lane = self._lanes[TURNS[self._turn % len(TURNS)]]
            self._turn += 1
            if lane:
                effect = lane.popleft()
                self._keys.discard(effect.key)
                return effect


class Executor:
    """A bounded number of effects at a time, fed by commits in this process and by a repair scan."""

    def __init__(
        self, database: Database, desk: EffectDesk, participant: Participant, clock: Clock, *, width: int
    ) -> None:
        self._database = database
        self._desk = desk
        self._participant = participant
        self._clock = clock
        self._width = width
        self._slots = asyncio.Semaphore(width)
        self._queue = Queue()
        self._running: set[str] = set()
        # Marks and settlements share their commits: a commit costs the disk more than all that is in it.
        self._commits = GroupCommit(database.unit_of_work, self._commit_all)
        desk.wake = self._queue.put

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
                    now = self._clock.now()
                    await table.ask_again(connection, (OPERATOR, EMERGENCY), now, REPAIR_BATCH)
                    for effect in await table.unanswered(connection, now, REPAIR_BATCH):
                        if effect.key not in self._running:
                            self._queue.put(effect)
                    counts = await table.counts(connection)
                    for state, lane in product(("reserved", "sent", "unknown"), Lane):
                        gauge(OPEN).labels(state, lane).set(counts.get((state, lane), 0))
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._clock.sleep(REPAIR_INTERVAL_S)

    async def _work(self) -> None:
        while True:
            effect = await self._queue.get()
            async with self._slots:
                if effect.key in self._running:
                    continue
                self._running.add(effect.key)
                try:
                    await self.execute(effect)
                except Exception as error:
                    if is_unavailable(error):
                        log.warning("effect_waits_for_database", effect=effect.key, error=type(error).__name__)
                    else:
                        log.error("effect_interrupted", effect=effect.key, exc_info=error)
                    await self._clock.sleep(INTERRUPTED_RETRY_S)
                finally:
                    self._running.discard(effect.key)

    async def execute(self, effect: Effect) -> None:
        """Take an effect, as it was read, one step further: prepare, plan, perform, settle. Others' work is left."""
        now = self._clock.now()
        if not runnable(effect, now):
            return
        prepared = await self._participant.prepare(effect)
        if not isinstance(prepared, Prepared):
            await self._close(effect, effect.version, "send", _untried(effect, prepared), None)
            return
        action = plan(effect, prepared.traits, now)
        if isinstance(action, Verdict):
            state = "refused" if action.status is AnswerStatus.REFUSED else "unknown"
            await self._commits.submit((effect.key, effect.version, Settled(state, action)))  # type: ignore[arg-type]
            return
        await self._perform(effect, prepared, action)

    async def _perform(self, effect: Effect, prepared: Prepared, action: Action) -> None:
        marked = False

        async def mark() -> bool:
            nonlocal marked
            lease = self._clock.now() + timedelta(seconds=prepared.traits.timeout_s + LEASE_MARGIN_S)
            marked = bool(await self._commits.submit((effect.key, effect.version, action == "send", lease)))
            return marked

        span = self._span(effect, action)
        try:
            outcome = await self._participant.perform(effect, prepared, action, mark)
            if span is not None:
                span.set_attribute("patchbay.outcome", type(outcome).__name__.lower())
        except Exception as error:
            if not marked:
                raise
            log.error("effect_call_failed", effect=effect.key, exc_info=error)
            outcome = Unclear("call_failed", type(error).__name__)
        finally:
            if span is not None:
                span.end()
        version = effect.version + 1 if marked else effect.version
        await self._close(effect, version, action, outcome, prepared)

    def _span(self, effect: Effect, action: Action) -> Span | None:
        """Start the span of a call; none where nobody will see it, because even that one costs 10 µs."""
        if effect.trace and not sampled(effect.trace):
            return None
        attributes = {"patchbay.provider": effect.provider, "patchbay.effect": effect.key}
        name = f"{action} {effect.operation}"
        return begin_trace(name, parent=effect.trace or None, kind=SpanKind.CLIENT, attributes=attributes)[1]

    async def _close(
        self, effect: Effect, version: int, action: Action, outcome: Outcome, prepared: Prepared | None
    ) -> None:
        traits: Any = prepared.traits if prepared else None
        settled = settle(effect, action, outcome, traits, self._clock.now())
        if settled is None:
            return
        after = await self._commits.submit((effect.key, version, settled))
        if isinstance(after, Effect) and settled.verdict is None:
            self._queue.put(after)

    async def _commit_all(self, uow: UnitOfWork, changes: Sequence[_Change]) -> list[Effect | bool | None]:
        now = self._clock.now()
        marks = [one for one in changes if len(one) == _MARK]
        settlements = [one for one in changes if len(one) != _MARK]
        if marks and settlements:
            # In one order for all of them, or two workers could wait for each other.
            await table.hold(uow.connection, [one[0] for one in changes])
        taken = await table.mark(uow.connection, marks, now) if marks else set()
        written = await table.settle(uow.connection, settlements, now) if settlements else {}
        for key, _, settled in settlements:
            if key in written and settled.verdict is not None:
                self._desk.answer(uow, written[key], settled.verdict)
        return [one[0] in taken if len(one) == _MARK else written.get(one[0]) for one in changes]


def _untried(effect: Effect, outcome: Outcome) -> Outcome:
    """Return the outcome of an attempt that could not even be prepared: a refusal only if none was ever sent."""
    if isinstance(outcome, Refused) and effect.state != "reserved":
        return Unclear(NEEDS_SETTLEMENT.code, f"{NEEDS_SETTLEMENT.detail}: {outcome.detail}", None)
    return outcome
