"""What the outbound path is made of, put together once for the service, its tests and benchmarks."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.mirror import Mirrored, MirrorSubscriber
from chassis.redis import Redis
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.health import RouteChanged
from contracts.events.sync import QuotaUsage
from contracts.ids import uuid7
from contracts.modes import quota_key
from contracts.topics import SYNC_QUOTA_USAGE
from providers import registry
from sync_worker.connections.tokens import Tokens
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.policies import PolicyBook
from sync_worker.limiter.store import QuotaStore
from sync_worker.limiter.usage import RetryBudgets, UsageBook
from sync_worker.metrics import CALLS_UNREPORTED
from sync_worker.outbound.breaker import WorkerBreakers
from sync_worker.outbound.client import ProviderClient
from sync_worker.outbound.path import Path, Quotas
from sync_worker.outbound.reports import SOURCE, CallReporter
from sync_worker.outbound.route_table import RouteTable

log = logger(__name__)

USAGE_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class OutboundParts:
    """The parts. `limiter.run`, `reporter.run`, `subscriber.run` and `usage.run` belong into the background."""

    routes: RouteTable
    policies: PolicyBook
    limiter: Limiter
    usage: UsageReporter
    reporter: CallReporter
    client: ProviderClient
    subscriber: MirrorSubscriber
    path: Path
    breakers: WorkerBreakers

    @classmethod
    def build(
        cls,
        publisher: Publisher,
        redis: Redis,
        tokens: Tokens,
        clock: Clock,
        *,
        worker: str,
        base_url_override: str = "",
    ) -> OutboundParts:
        """Put the parts together. `worker` tells processes of one fleet apart."""
        routes, policies, book = RouteTable(), PolicyBook(), UsageBook(clock, worker)
        for provider in registry.all_providers():
            if provider.manifest.api is not None:
                policies.declare(provider.slug, provider.api.rate, provider.api.windows)
        subscriber = MirrorSubscriber(redis, clock, lambda record: _follow(routes, record))
        retries = RetryBudgets(clock.monotonic)
        limiter = Limiter(QuotaStore(redis, worker), clock, book, retries, on_version=subscriber.noticed)
        feedback = Feedback(limiter, policies, book, retries, clock)
        reporter = CallReporter(publisher, routes, clock, worker=worker)
        client = ProviderClient(clock, base_url_override=base_url_override)
        # Cryptographic strength is for secrets; a breaker only needs its trials spread.
        breakers = WorkerBreakers.build(clock.monotonic, random.uniform)
        quotas = Quotas(limiter, policies, retries, feedback)
        path = Path(tokens, client, routes, breakers=breakers, quotas=quotas, reporter=reporter, clock=clock)
        usage = UsageReporter(publisher, book, clock)
        return cls(routes, policies, limiter, usage, reporter, client, subscriber, path, breakers)


class UsageReporter:
    """Publishes what this worker spent of each bucket, every second; a report that the broker does not take is lost."""

    def __init__(self, publisher: Publisher, book: UsageBook, clock: Clock) -> None:
        self._publisher = publisher
        self._book = book
        self._clock = clock

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._clock.sleep(USAGE_INTERVAL_S)
            await asyncio.gather(*(self._publish(one) for one in self._book.collect()))

    async def _publish(self, usage: QuotaUsage) -> None:
        envelope = Envelope(id=str(uuid7()), source=SOURCE, type=QuotaUsage.TYPE, data=encode(usage))
        try:
            await self._publisher.publish(
                SYNC_QUOTA_USAGE, quota_key(usage.provider, usage.bucket, usage.mode), envelope
            )
        except Transient:
            counter(CALLS_UNREPORTED).inc()


def _follow(routes: RouteTable, record: Mirrored) -> None:
    try:
        routes.put(decode(RouteChanged, record.value))
    except Invalid as error:
        log.warning("mirror_record_invalid", group=record.group, key=record.key, code=error.code)
