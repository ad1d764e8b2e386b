"""The way to providers with scripted answers: no network, no Redis, no broker."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from chassis.testing.clock import ManualClock
from contracts.envelope import Envelope
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.pools import FREE, Grant
from sync_worker.limiter.usage import RetryBudgets, UsageBook
from sync_worker.outbound.breaker import ROUTE, Breakers, WorkerBreakers
from sync_worker.outbound.client import Failure
from sync_worker.outbound.path import Path as CallPath
from sync_worker.outbound.path import Quotas
from sync_worker.outbound.reports import CallReporter
from sync_worker.outbound.route_table import Place, RouteTable


@dataclass
class ScriptedClient:
    """The port of the provider client: answers from `script`, in order; an exception in it is raised."""

    script: list[HttpResponse | Failure | BaseException | Callable[[], Any]] = field(default_factory=list)
    calls: list[tuple[Provider, HttpRequest]] = field(default_factory=list)

    async def send(
        self, provider: Provider, account: Account, request: HttpRequest, timeout_s: float, *, fresh: bool = False
    ) -> HttpResponse | Failure:
        del account, timeout_s, fresh
        self.calls.append((provider, request))
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        result: HttpResponse | Failure = step if isinstance(step, HttpResponse | Failure) else await step()
        return result

    @property
    def methods(self) -> list[str]:
        return [request.method for _, request in self.calls]


class FreeLimiter:
    """A limiter that lets everything pass and remembers what it was told."""

    def __init__(self) -> None:
        self.blocks: list[tuple[str, float]] = []

    async def take(self, *_: Any, **__: Any) -> Grant:
        return FREE

    def throttled(self, _path: Any, bucket: str, block_s: float, _sent_at: float | None) -> None:
        self.blocks.append((bucket, block_s))


class SilentPublisher:
    """A producer that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []

    async def publish(self, _topic: Any, _key: str, envelope: Envelope) -> None:
        self.sent.append(envelope)


def path_of(
    tokens: Any, client: Any, routes: RouteTable, clock: ManualClock, limiter: Any = None, *, doubts: bool = False
) -> CallPath:
    """Return the outbound path around a scripted client; only with `doubts` do calls wait after two failures."""
    breakers = WorkerBreakers.build(clock.monotonic, lambda _low, high: high)
    if not doubts:
        never: Breakers[Place] = Breakers(clock.monotonic, random.uniform, replace(ROUTE, failures=1 << 30))
        breakers = replace(breakers, route=never)
    policies, retries = PolicyBook(), RetryBudgets(clock.monotonic)
    free: Any = limiter or FreeLimiter()
    feedback = Feedback(free, policies, UsageBook(clock, "w"), retries, clock)
    publisher: Any = SilentPublisher()
    return CallPath(
        tokens,
        client,
        routes,
        breakers=breakers,
        quotas=Quotas(free, policies, retries, feedback),
        reporter=CallReporter(publisher, routes, clock, worker="w"),
        clock=clock,
    )
