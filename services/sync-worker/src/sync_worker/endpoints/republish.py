"""Publishes endpoints again whose record changed without an act on them: a key ended, their tenant got another limit.

Works in batches of its own, so that a tenant with thousands of endpoints never holds a request or a lock for long.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_retryable, is_unavailable
from chassis.db.database import Database
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from contracts.errors import PatchbayError
from sync_worker.endpoints.desk import Endpoints
from sync_worker.repository import endpoints

log = logger(__name__)

BATCH: Final = 100
# A change in this process wakes the loop at once; the poll finds what is due by its time or marked by a replica.
POLL_S: Final = 0.5
# A record that cannot be made (its provider is gone, its key does not open) needs a person.
RETRY: Final = timedelta(minutes=5)


def passes(error: Exception) -> bool:
    """Tell whether a background pass that failed may simply be tried again later."""
    lock_timeout = getattr(error, "sqlstate", None) == "55P03"
    return lock_timeout or is_retryable(error) or is_unavailable(error)


class Republisher:
    """Publishes what is due, until cancelled. Every replica runs one; they share the work."""

    def __init__(self, database: Database, desk: Endpoints, clock: Clock) -> None:
        self._database = database
        self._desk = desk
        self._clock = clock
        self._due = asyncio.Event()
        desk.wake = self._due.set

    async def run(self) -> None:
        """Publish due records within `POLL_S` of their time."""
        while True:
            self._due.clear()
            try:
                while await self.publish_batch() == BATCH:
                    pass
            except Exception as error:
                if not passes(error):
                    raise
                log.warning("republish_waits_for_database", error=type(error).__name__)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def publish_batch(self) -> int:
        """Publish up to `BATCH` due endpoints in one transaction and return how many there were."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            due = await endpoints.lock_due(uow.connection, now, BATCH)
            for stored in due:
                try:
                    await self._desk.publish(uow, stored)
                except (PatchbayError, SealError) as error:
                    log.error("endpoint_not_published", endpoint=stored.endpoint.id, error=str(error))
                    await endpoints.postpone(uow.connection, stored.endpoint.id, now + RETRY)
        return len(due)
