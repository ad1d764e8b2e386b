"""Composition root: builds the health monitor from its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chassis.clock import Clock, SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.state import StateReader
from chassis.mirror import Mirrored, MirrorOwner, MirrorSubscriber
from chassis.redis import connect
from chassis.service import Service
from chassis.telemetry.logs import logger
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.health import RouteChanged
from contracts.topics import HEALTH_QUOTAS, HEALTH_ROUTES
from health_monitor.api_versions import ApiVersions
from health_monitor.audit import SERVICE
from health_monitor.handlers import EvidenceLoop, Generations, UsageLoop
from health_monitor.keeper import Keeper
from health_monitor.monitor import Monitor
from health_monitor.operate import Operations
from health_monitor.quota_routes import quota_routes
from health_monitor.quotas import Quotas
from health_monitor.routes import routes
from health_monitor.settings import Settings
from health_monitor.timers import ControlProbe, Ticker, Wishes

log = logger(__name__)

NAME: Final = SERVICE


def create(settings: Settings, clock: Clock | None = None) -> Service:
    """Return the service, ready to run."""
    clock = clock or SystemClock()
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    service = Service(NAME, settings, database=database)
    quotas = Quotas(database, clock)
    monitor = Monitor(clock, has_quota=quotas.has_quota)
    service.add_reader(StateReader(settings.kafka_bootstrap, HEALTH_ROUTES, _learn_from_topic(monitor)))
    service.add_reader(StateReader(settings.kafka_bootstrap, HEALTH_QUOTAS, quotas.apply))
    mirror = _mirror(service, settings, monitor, clock)
    keeper = Keeper(monitor, database, mirror[0] if mirror else None, clock)
    ticker, wishes = Ticker(monitor, keeper, clock), Wishes(monitor, database)
    if mirror is not None:
        ticker.watch(*mirror)
    mirrored = mirror[1].loaded if mirror else None
    generations = Generations(database, monitor, clock, least=settings.route_generation, mirrored=mirrored)
    service.add_loop(EvidenceLoop(monitor, keeper, generations.next, database, clock))
    service.add_loop(UsageLoop(quotas, database, clock))
    service.add_background("quotas", quotas.run)
    service.add_background("api versions", ApiVersions(database, clock).run)
    service.add_background("keeper", keeper.run)
    service.add_background("ticker", ticker.run)
    service.add_background("wishes", wishes.run)
    if settings.control_probes:
        service.add_background("control probe", ControlProbe(monitor, settings.control_probes, clock).run)
    service.add_drain(keeper.drain)
    service.add_routes(routes(database, service.tokens, clock))
    service.add_routes(quota_routes(database, service.tokens, clock, quotas))
    service.add_routes(Operations(database, service.tokens, clock, wishes.wake).routes())
    return service


def _mirror(
    service: Service, settings: Settings, monitor: Monitor, clock: Clock
) -> tuple[MirrorOwner, MirrorSubscriber] | None:
    if settings.redis_url is None:
        return None
    redis = connect(settings.redis_url.get_secret_value())
    owner, subscriber = MirrorOwner(redis, clock), MirrorSubscriber(redis, clock, _learn_from_mirror(monitor))
    service.add_background("mirror owner", owner.run)
    service.add_background("mirror subscriber", subscriber.run)
    service.add_drain(redis.aclose)
    return owner, subscriber


def _learn_from_topic(monitor: Monitor) -> Callable[[str, Envelope | None], None]:
    def learn(_key: str, envelope: Envelope | None) -> None:
        if envelope is not None:
            monitor.learned(decode(RouteChanged, envelope.data))

    return learn


def _learn_from_mirror(monitor: Monitor) -> Callable[[Mirrored], None]:
    def learn(record: Mirrored) -> None:
        try:
            monitor.learned(decode(RouteChanged, record.value))
        except Invalid as error:
            log.warning("mirror_record_invalid", group=record.group, key=record.key, code=error.code)

    return learn


def asyncapi() -> str:
    """Return the AsyncAPI document of the health monitor."""
    return document(NAME)
