"""Composition root: builds one role of the gateway from its settings."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop, LoopOptions
from chassis.kafka.producer import Publisher
from chassis.kafka.state import StateReader
from chassis.sealing import Keyring
from chassis.service import Service
from contracts.topics import GATEWAY_EVENTS, GATEWAY_REJECTIONS, SYNC_ENDPOINTS
from webhook_gateway import handlers, ledger
from webhook_gateway.endpoints import EndpointRegistry
from webhook_gateway.ingest import Ingest
from webhook_gateway.routes import Hooks
from webhook_gateway.settings import Settings

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
    if settings.keyring is None:
        raise PydanticCustomError("missing", "PATCHBAY_KEYRING is required for the ingest role")
    clock = SystemClock()
    publisher = Publisher(settings.kafka_bootstrap, linger_ms=INGEST_LINGER_MS, compression=None)
    service = Service(NAME, settings, publisher=publisher)
    endpoints = EndpointRegistry(Keyring.load(settings.keyring))
    ingest = Ingest(
        publisher, clock, max_body_bytes=settings.max_body_bytes, publish_timeout_s=settings.publish_timeout_s
    )
    service.add_reader(StateReader(settings.kafka_bootstrap, SYNC_ENDPOINTS, endpoints.apply))
    service.wrap_app(
        lambda app: Hooks(
            endpoints,
            ingest,
            clock,
            app,
            max_body_bytes=settings.max_body_bytes,
            body_timeout_s=settings.body_timeout_s,
        )
    )
    return service


def _ledger(settings: Settings) -> Service:
    if settings.database_url is None:
        raise PydanticCustomError("missing", "PATCHBAY_DATABASE_URL is required for the ledger role")
    database = Database(
        settings.database_url.get_secret_value(), service=f"{NAME}-ledger", pool_size=settings.database_pool_size
    )
    service = Service(f"{NAME}-ledger", settings, database=database)
    # The ledger keeps every delivery, so that a redelivery of one event is a row of its own.
    by_position = LoopOptions(dedupe_by="position", ordered=False)
    topics = [*GATEWAY_EVENTS.values(), GATEWAY_REJECTIONS]
    service.add_loop(BatchLoop("webhook-gateway-ledger", topics, handlers.store, database, options=by_position))
    service.add_routes(ledger.routes(database, service.tokens))
    return service
