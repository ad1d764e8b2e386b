"""Composition root: builds one role of the gateway from its settings."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

from chassis.claims import open_claims
from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.state import StateReader
from chassis.redis import connect
from chassis.sealing import Keyring
from chassis.service import Service
from contracts.topics import (
    GATEWAY_ADMISSION,
    GATEWAY_EVENTS,
    GATEWAY_QUARANTINE,
    GATEWAY_REJECTIONS,
    ORCHESTRATOR_SAGA_EVENTS,
    SYNC_CHANGES,
    SYNC_ENDPOINTS,
    SYNC_RESULTS,
)
from webhook_gateway.addresses import networks
from webhook_gateway.admission import Admission
from webhook_gateway.claim_keeper import ClaimKeeper
from webhook_gateway.deadletters import DeadLetterLoop
from webhook_gateway.dedup import DedupMemory
from webhook_gateway.drain import DrainWatch
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.endpoints import EndpointRegistry
from webhook_gateway.fleet import Fleet
from webhook_gateway.flights import Bounds, Flights
from webhook_gateway.handlers import Handlers
from webhook_gateway.handshakes import Handshakes
from webhook_gateway.ingest import Ingest, Limits, Ports
from webhook_gateway.keys import KeyCache
from webhook_gateway.ledger.admission import AdmissionDesk
from webhook_gateway.ledger.admission import routes as admission_routes
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.ledger.table import routes
from webhook_gateway.limits import RateLimits
from webhook_gateway.partitions import PartitionKeeper
from webhook_gateway.rejections import Rejections
from webhook_gateway.replay import Releaser, ReplayRunner
from webhook_gateway.reverify import Reverifier
from webhook_gateway.routes import Edge, Hooks, Times
from webhook_gateway.settings import Settings
from webhook_gateway.verification import Gate
from webhook_gateway.watch import Pulse, ShapeSampler, Watch

NAME = "webhook-gateway"
# 5 ms of linger halve the gateway's rate; 1 ms lets concurrent requests share a batch (stack.md §9).
INGEST_LINGER_MS = 1


def create(settings: Settings) -> Service:
    """Return the service for the configured role; raises when a setting that the role needs is missing."""
    return _ingest(settings) if settings.role == "ingest" else _ledger(settings)


def asyncapi() -> str:
    """Return the AsyncAPI document of the gateway, both roles."""
    return document(NAME)


def _ingest(settings: Settings) -> Service:
    if settings.keyring is None or settings.redis_url is None:
        raise PydanticCustomError("missing", "PATCHBAY_KEYRING and PATCHBAY_REDIS_URL are required for the ingest role")
    clock = SystemClock()
    publisher = Publisher(settings.kafka_bootstrap, linger_ms=INGEST_LINGER_MS, compression=None)
    critical = Publisher(settings.kafka_bootstrap, linger_ms=0, compression=None)
    service = Service(NAME, settings, publisher=publisher)
    service.add_publisher(critical)
    redis = connect(settings.redis_url.get_secret_value())
    keys = KeyCache(clock, override=settings.vendor_key_override)
    keyring = Keyring.load(settings.keyring)
    endpoints = EndpointRegistry(keyring)
    limits = RateLimits(clock)
    admission = Admission(limits, clock)
    memory, rejections = DedupMemory(redis, clock), Rejections(publisher, clock)
    flights = Flights(Bounds(settings.max_requests, settings.max_held_bytes), clock)
    gate = Gate(keys)
    handshakes = Handshakes(gate, keys, rejections, publisher, keyring)
    claims = open_claims(settings)
    ingest = Ingest(
        Ports(publisher, critical, gate, memory, admission, rejections, claims, clock),
        Limits(body=settings.max_body_bytes, inline=settings.inline_body_bytes),
    )
    reader = StateReader(settings.kafka_bootstrap, SYNC_ENDPOINTS, endpoints.apply)
    edge = Edge(
        endpoints=endpoints,
        loaded=reader.loaded,
        ingest=ingest,
        handshakes=handshakes,
        rejections=rejections,
        limits=limits,
        flights=flights,
        clock=clock,
        trusted_proxies=networks(settings.trusted_proxies),
        max_body_bytes=settings.max_body_bytes,
        times=Times(body=settings.body_timeout_s, publish=settings.publish_timeout_s),
        leaving=service.leaving,
    )
    service.add_reader(reader)
    service.add_reader(StateReader(settings.kafka_bootstrap, GATEWAY_ADMISSION, admission.apply))
    for name, run in {
        "flights": flights.run,
        "dedup memory": memory.run,
        "fleet": Fleet(redis, limits, clock).run,
    }.items():
        service.add_background(name, run)
    for drain in (redis.aclose, keys.close, rejections.drain, handshakes.drain):
        service.add_drain(drain)
    service.put_in_front(lambda fallback: Hooks(edge, fallback))
    return service


def _ledger(settings: Settings) -> Service:
    if settings.database_url is None:
        raise PydanticCustomError("missing", "PATCHBAY_DATABASE_URL is required for the ledger role")
    clock = SystemClock()
    database = Database(
        settings.database_url.get_secret_value(), service=f"{NAME}-ledger", pool_size=settings.database_pool_size
    )
    service = Service(f"{NAME}-ledger", settings, database=database)
    book, pulse, sampler = EndpointBook(), Pulse(clock), ShapeSampler()
    handlers = Handlers(book, clock, listeners=(pulse.hear, sampler.hear))
    # The ledger keeps every delivery, so that a redelivery of one event is a row of its own.
    by_position = LoopOptions(dedupe_by="position", ordered=False)
    topics = [*GATEWAY_EVENTS.values(), GATEWAY_REJECTIONS, GATEWAY_QUARANTINE]
    service.add_loop(BatchLoop(f"{NAME}-ledger", topics, handlers.store, database, options=by_position))
    trail = [SYNC_CHANGES, SYNC_RESULTS, ORCHESTRATOR_SAGA_EVENTS]
    service.add_loop(BatchLoop(f"{NAME}-effects", trail, handlers.trace, database, options=by_position))
    service.add_loop(DeadLetterLoop(database, clock))
    service.add_reader(StateReader(settings.kafka_bootstrap, SYNC_ENDPOINTS, book.apply))
    watch = Watch(database, clock, book, pulse=pulse, sampler=sampler)
    keeper = PartitionKeeper(
        database, clock, retention_days=settings.retention_days, tenant_days=settings.tenant_retention_days
    )
    for name, run in {
        "partitions": keeper.run,
        "replays": ReplayRunner(database, clock, book).run,
        "releases": Releaser(database, clock, book, rate_per_s=settings.release_per_s).run,
        "watch": watch.run,
        "shapes": watch.run_shapes,
    }.items():
        service.add_background(name, run)
    claims, reverifier = open_claims(settings), None
    if settings.keyring is not None:
        keys = KeyCache(clock, override=settings.vendor_key_override)
        service.add_drain(keys.close)
        keyring, gate = Keyring.load(settings.keyring), Gate(keys)
        reverifier = Reverifier(database, clock, book, keyring=keyring, gate=gate, claims=claims)
    service.add_background("claim keeper", ClaimKeeper(claims, clock, retention_days=settings.retention_days).run)
    desk = AdmissionDesk(database, clock)
    service.add_reader(StateReader(settings.kafka_bootstrap, GATEWAY_ADMISSION, desk.apply))
    drain = DrainWatch(settings.kafka_bootstrap, settings.drain_groups, clock, desk.limit)
    service.add_background("drain watch", drain.run)
    api = LedgerApi(database, clock, book, service.tokens, reverifier, claims)
    service.add_routes([*routes(api), *admission_routes(api, desk)])
    return service
