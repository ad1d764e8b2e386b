"""What becomes of decisions: announced in Redis at once, then kept in the database with audit and durable record.

The announcement never waits for the database. What is not saved yet stays in memory, in order, under its epoch, and is
tried again; offsets are committed after the save, so that a crash reads its evidence once more. Statistics are counted
at least once: a crash between save and offset commit counts a batch twice. Must never lose or renumber a decision
because a transaction failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.loop import Consumer, Partition
from chassis.mirror import MirrorOwner
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge, histogram
from contracts.codec import encode
from contracts.events.health import RouteState
from contracts.events.sync import CallsObserved
from contracts.modes import keyed
from contracts.topics import HEALTH_ROUTES
from health_monitor import audit, metrics, statistics, versions
from health_monitor.monitor import Alarm, Decision, Monitor, snapshot
from health_monitor.repository import counts, operators, routes
from health_monitor.repository import versions as seen_versions
from health_monitor.statistics import Buckets, RouteKey, key_of
from health_monitor.versions import Notice, VersionKey

log = logger(__name__)

STATISTICS_RETENTION: Final = timedelta(hours=24)
# Operators' demands that are over stay visible to their owner for this long, so that it ends them.
_OVERRIDE_RETENTION: Final = timedelta(hours=1)
_INTERVAL_S: Final = 1.0
_PAUSE_S: Final = 0.05
# A consumer that is just leaving would wait for its coordinator for ever.
_COMMIT_TIMEOUT_S: Final = 5.0
_LOST: Final = frozenset({RouteState.DOWN, RouteState.DEGRADED, RouteState.FORCED_DOWN, RouteState.MAINTENANCE})


class Keeper:
    """Announces and saves. `run` saves until cancelled; `save` once."""

    def __init__(self, monitor: Monitor, database: Database, mirror: MirrorOwner | None, clock: Clock) -> None:
        self._monitor = monitor
        self._database = database
        self._mirror = mirror
        self._clock = clock
        self._unsaved: list[Decision] = []
        self._alarms: list[Alarm] = []
        self._buckets: Buckets = {}
        self._versions: dict[VersionKey, Notice] = {}
        self._touched: set[RouteKey] = set()
        self._exported: set[RouteKey] = set()
        self._progress: dict[Partition, int] = {}
        self._kafka: Consumer | None = None
        self._wake = asyncio.Event()
        self._saving = asyncio.Lock()
        self._pruned: datetime | None = None
        self._away = False

    # --- taken at once ------------------------------------------------------------------------------------------------

    def take(self, decided: Sequence[Decision]) -> None:
        """Announce decisions and keep them for the next save. Does not block."""
        for decision in decided:
            if self._mirror is not None:
                record = decision.record
                group = keyed(record.provider, mode=record.mode)
                self._mirror.put(group, record.capability, record.epoch, encode(record))
            _measure(decision)
            self._exported.add(decision.key)
        self._unsaved += decided
        alarms, self._monitor.alarms = self._monitor.alarms, []
        for alarm in alarms:
            place = gauge(metrics.SELF_FAULT) if alarm.kind == "self_fault" else gauge(metrics.PANIC).labels(alarm.mode)
            place.set(int(alarm.began))
            tell = log.critical if alarm.began and alarm.mode == "live" else log.warning
            tell(alarm.kind, began=alarm.began, reason=alarm.reason, mode=alarm.mode)
        self._alarms += alarms
        if decided or alarms:
            self._wake.set()

    def disown(self) -> None:
        """End the series of routes that another replica owns by now: two would tell two states. Does not block."""
        for key in [key for key in self._exported if not self._monitor.owns(key)]:
            self._exported.discard(key)
            gauge(metrics.SHARE).remove(*key)
            gauge(metrics.EPOCH).remove(*key)
            for state in RouteState:
                gauge(metrics.STATE).remove(*key, state)

    def count(self, calls: CallsObserved) -> None:
        """Add a report to the statistics."""
        more = statistics.by_minute([calls])
        statistics.merged(self._buckets, more)
        versions.merged(self._versions, calls)
        self._touched.add(key_of(calls))
        for (key, _), bucket in more.items():
            for outcome, number in bucket.counts.items():
                if number:
                    counter(metrics.CALLS).labels(*key, outcome).inc(number)

    def progress(self, kafka: Consumer, offsets: dict[Partition, int]) -> None:
        """Commit these offsets after the next save."""
        self._kafka = kafka
        self._progress |= offsets
        self._wake.set()

    # --- saved soon ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Save whatever comes, until cancelled; an outage of the database is waited for."""
        while True:
            try:
                async with asyncio.timeout(_INTERVAL_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.save()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                if not self._away:
                    log.warning("decisions_not_saved", waiting=len(self._unsaved), error=type(error).__name__)
                self._away = True
                await self._clock.sleep(_INTERVAL_S)
            else:
                self._away = False
            gauge(metrics.UNSAVED).set(len(self._unsaved))
            await self._clock.sleep(_PAUSE_S)

    async def drain(self) -> None:
        """Save what is left, on the way out; an outage leaves it to the next owner, who reads the mirror.

        The consumer has left by then: what its last moments brought is read again.
        """
        self._kafka = None
        try:
            await self.save()
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("decisions_not_saved", waiting=len(self._unsaved), error=type(error).__name__)

    async def save(self) -> None:
        """Save everything taken so far in one transaction; raises what the database raises, and then keeps it."""
        async with self._saving:
            await self._save()

    async def _save(self) -> None:
        decided, alarms, offsets = len(self._unsaved), len(self._alarms), dict(self._progress)
        buckets, self._buckets = self._buckets, {}
        named, touched, self._touched = dict(self._versions), self._touched, set()
        try:
            async with self._database.unit_of_work() as uow:
                await self._write(uow, self._unsaved[:decided], self._alarms[:alarms], touched)
                await counts.add_calls(uow.connection, buckets)
                await seen_versions.add(uow.connection, named, self._clock.now())
        except BaseException:
            # Cancelled or refused: all of it comes again.
            statistics.merged(self._buckets, buckets)
            self._touched |= touched
            raise
        del self._unsaved[:decided], self._alarms[:alarms]
        for key, notice in named.items():
            if self._versions.get(key) == notice:
                del self._versions[key]
        if self._kafka is not None and offsets:
            async with asyncio.timeout(_COMMIT_TIMEOUT_S):
                await self._kafka.commit(offsets)  # lint-skip: PB002 offsets of a consumer, not a transaction
            self._progress = {place: at for place, at in self._progress.items() if offsets.get(place) != at}

    async def _write(
        self, uow: UnitOfWork, decided: Sequence[Decision], alarms: Sequence[Alarm], touched: set[RouteKey]
    ) -> None:
        now = self._clock.monotonic()
        learned: dict[RouteKey, tuple[float, dict[str, Any]]] = {}
        for key in touched | {decision.key for decision in decided}:
            machine = self._monitor.machines.get(key)
            if machine is not None:
                learned[key] = machine.track.ratio, snapshot(machine, now)
        await routes.save(uow.connection, decided, learned)
        for decision in decided:
            record = decision.record
            uow.emit(HEALTH_ROUTES, keyed(record.capability, record.provider, mode=record.mode), record)
            audit.decision(uow, decision)
        for alarm in alarms:
            audit.alarm(uow, alarm)
        await self._forget(uow)

    async def _forget(self, uow: UnitOfWork) -> None:
        """Delete what is past its retention, once a minute; a rolled-back deletion comes again a minute later."""
        minute = self._clock.now().replace(second=0, microsecond=0)
        if self._pruned != minute:
            await counts.forget_calls(uow.connection, minute - STATISTICS_RETENTION)
            await operators.forget_overrides(uow.connection, minute - _OVERRIDE_RETENTION)
            self._pruned = minute


def _measure(decision: Decision) -> None:
    record, move = decision.record, decision.move
    gauge(metrics.SHARE).labels(*decision.key).set(record.share / 100)
    gauge(metrics.EPOCH).labels(*decision.key).set(record.epoch[1])
    for state in RouteState:
        gauge(metrics.STATE).labels(*decision.key, state).set(int(state is record.state))
    if move is None:
        return
    counter(metrics.TRANSITIONS).labels(*decision.key, move.after).inc()
    if move.after in _LOST and move.before not in _LOST:
        takers = {name: share for name, share in record.shares.items() if share and name != record.provider}
        taker = max(takers, key=lambda name: takers[name], default="none")
        counter(metrics.FAILOVERS).labels(record.provider, taker, move.kind, record.mode).inc()
    if move.detection_s is not None:
        histogram(metrics.DETECTION_SECONDS).labels(record.provider, record.mode).observe(move.detection_s)
    log.warning(
        "route_changed",
        provider=record.provider,
        capability=record.capability,
        mode=record.mode,
        before=move.before,
        after=move.after,
        reason=record.reason,
    )
