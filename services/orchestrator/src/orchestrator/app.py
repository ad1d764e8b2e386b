"""Composition root of the orchestrator."""

from __future__ import annotations

from chassis.clock import SystemClock
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop
from chassis.service import Service
from contracts.topics import SYNC_CHANGES, SYNC_RESULTS
from orchestrator.handlers import Handlers
from orchestrator.routes import Api, routes
from orchestrator.runtime import Runtime, TimerPoller
from orchestrator.settings import Settings

NAME = "orchestrator"


def create(settings: Settings) -> Service:
    """Return the orchestrator."""
    clock = SystemClock()
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    service = Service(NAME, settings, database=database)
    runtime = Runtime(clock)
    handlers = Handlers(runtime)
    service.add_loop(BatchLoop("orchestrator-results", [SYNC_RESULTS], handlers.results, database))
    service.add_loop(BatchLoop("orchestrator-changes", [SYNC_CHANGES], handlers.changes, database))
    service.add_background("timers", TimerPoller(database, runtime, clock, interval_s=settings.timer_poll_s).run)
    service.add_routes(routes(Api(database, runtime), service.tokens))
    return service


def asyncapi() -> str:
    """Return the AsyncAPI document of the orchestrator."""
    return document(NAME)
