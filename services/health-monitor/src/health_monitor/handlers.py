"""The consumer: observed calls into statistics, decisions and routes, all in one unit of work per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from contracts.codec import decode
from contracts.events.health import RouteChanged
from contracts.events.platform import AuditRecorded
from contracts.events.sync import CallsObserved
from contracts.ids import uuid7
from contracts.topics import HEALTH_ROUTES, PLATFORM_AUDIT
from health_monitor import repository, statistics
from health_monitor.detector import SHARES, Run, Transition, observe
from health_monitor.metrics import CALLS, SHARE, TRANSITIONS
from health_monitor.repository import StoredRoute
from health_monitor.statistics import RouteKey

log = logger(__name__)

SERVICE: Final = "health-monitor"
STATISTICS_RETENTION: Final = timedelta(hours=24)


class Observer:
    """Handles `sync.calls.v1`. `generation` is the first half of the epochs that it gives out."""

    def __init__(self, clock: Clock, *, generation: int) -> None:
        self._clock = clock
        self._generation = generation
        self._pruned: datetime | None = None

    async def handle(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Count calls and decide about their routes, in order; a route is published only when its state changes."""
        now = self._clock.now()
        observed = [(decode(CallsObserved, message.envelope.data), message.trace) for message in messages]
        routes = await repository.lock_routes(uow.connection, {_key(calls) for calls, _ in observed}, now)
        for calls, trace in observed:
            key = _key(calls)
            runs = [Run(run.outcome, run.count) for run in calls.runs]
            track, decided = observe(routes[key].track, runs, now)
            for transition in decided:
                routes[key] = routes[key].after(transition, self._generation)
                await self._publish(uow, key, routes[key], transition, trace)
            routes[key] = replace(routes[key], track=track)
        await repository.save_routes(uow.connection, routes)
        buckets = statistics.by_minute(calls for calls, _ in observed)
        await repository.add_calls(uow.connection, buckets)
        await self._forget_old_calls(uow, now)
        uow.after_commit(partial(_measure, buckets, routes))

    async def _publish(
        self, uow: UnitOfWork, key: RouteKey, route: StoredRoute, transition: Transition, trace: str | None
    ) -> None:
        provider, capability = key
        await repository.add_transition(uow.connection, key, route, transition)
        changed = RouteChanged(
            provider=provider,
            capability=capability,
            epoch=route.epoch,
            state=transition.after,
            share=transition.share,
            reason=transition.reason,
            decided_at=transition.decided_at,
        )
        uow.emit(HEALTH_ROUTES, f"{capability}:{provider}", changed, trace=trace)
        audit = AuditRecorded(
            audit_id=uuid7(),
            tenant="",
            service=SERVICE,
            actor=SERVICE,
            action="route.changed",
            target=f"route:{capability}:{provider}",
            at=transition.decided_at,
            detail={
                "before": transition.before,
                "after": transition.after,
                "reason": transition.reason,
                "epoch": f"{route.epoch[0]}.{route.epoch[1]}",
            },
        )
        uow.emit(PLATFORM_AUDIT, "", audit, trace=trace)
        uow.after_commit(partial(_announce, key, transition))

    async def _forget_old_calls(self, uow: UnitOfWork, now: datetime) -> None:
        """Delete statistics past their retention, once a minute; a rolled-back deletion comes again a minute later."""
        minute = now.replace(second=0, microsecond=0)
        if self._pruned != minute:
            await repository.forget_calls(uow.connection, minute - STATISTICS_RETENTION)
            self._pruned = minute


def _key(calls: CallsObserved) -> RouteKey:
    return calls.provider, calls.capability


def _announce(key: RouteKey, transition: Transition) -> None:
    counter(TRANSITIONS).labels(*key, transition.after).inc()
    log.warning(
        "route_changed",
        provider=key[0],
        capability=key[1],
        before=transition.before,
        after=transition.after,
        reason=transition.reason,
    )


def _measure(buckets: dict[tuple[str, str, datetime], statistics.Bucket], routes: dict[RouteKey, StoredRoute]) -> None:
    for key, route in routes.items():
        gauge(SHARE).labels(*key).set(SHARES[route.track.state] / 100)
    for (provider, capability, _), bucket in buckets.items():
        for outcome, count in bucket.counts.items():
            if count:
                counter(CALLS).labels(provider, capability, outcome).inc(count)
