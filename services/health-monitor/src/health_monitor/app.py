"""Composition root: builds the health monitor from its settings."""

from __future__ import annotations

from chassis.clock import Clock, SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop
from chassis.service import Service
from contracts.topics import SYNC_CALLS
from health_monitor.handlers import SERVICE, Observer
from health_monitor.routes import routes
from health_monitor.settings import Settings

NAME = SERVICE


def create(settings: Settings, clock: Clock | None = None) -> Service:
    """Return the service, ready to run."""
    clock = clock or SystemClock()
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    service = Service(NAME, settings, database=database)
    observer = Observer(clock, generation=settings.route_generation)
    service.add_loop(BatchLoop(NAME, [SYNC_CALLS], observer.handle, database))
    service.add_routes(routes(database, service.tokens, clock))
    return service


def asyncapi() -> str:
    """Return the AsyncAPI document of the health monitor."""
    return document(NAME)
