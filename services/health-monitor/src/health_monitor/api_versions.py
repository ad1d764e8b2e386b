"""Publishes the versions of providers' APIs that answers name, and exports when one goes away.

One record per provider on a compacted topic, again only when it says something else. Replicas agree by a lock on the
provider. Must never publish for each report: traffic names its version with every call.
"""

from __future__ import annotations

from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.events.health import ApiVersionsChanged
from contracts.topics import HEALTH_API_VERSIONS
from health_monitor import metrics
from health_monitor.repository import versions as stored
from health_monitor.versions import FORGOTTEN_AFTER, VersionKey, record

log = logger(__name__)

REVIEW_S: Final = 10.0


class ApiVersions:
    """Reviews what was seen, until cancelled."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._exported: set[VersionKey] = set()

    async def run(self) -> None:
        """Review every ten seconds; an outage of the database is waited for."""
        while True:
            try:
                await self.review()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("versions_not_reviewed", error=type(error).__name__)
            await self._clock.sleep(REVIEW_S)

    async def review(self) -> None:
        """Publish what changed, provider by provider, and export all; raises what the database raises."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            await stored.forget(uow.connection, now - FORGOTTEN_AFTER)
        async with self._database.connection() as connection:
            providers = await stored.providers(connection)
        known: list[ApiVersionsChanged] = []
        for provider in providers:
            async with self._database.unit_of_work() as uow:
                known.append(await self._publish(uow, provider))
        self._export(known)

    async def _publish(self, uow: UnitOfWork, provider: str) -> ApiVersionsChanged:
        last = await stored.lock(uow.connection, provider)
        told = record(provider, await stored.of_provider(uow.connection, provider), self._clock.now())
        if last is not None and last.versions == told.versions:
            return last
        await stored.save(uow.connection, told)
        uow.emit(HEALTH_API_VERSIONS, provider, told)
        return told

    def _export(self, known: list[ApiVersionsChanged]) -> None:
        """Export the sunsets of versions that calls still use; the series of all others end."""
        sunset = gauge(metrics.SUNSET)
        found = {
            (one.provider, version.version): version.sunset_at.timestamp()
            for one in known
            for version in one.versions
            if version.in_traffic and version.sunset_at is not None
        }
        for key, at in found.items():
            sunset.labels(*key).set(at)
        for key in self._exported - found.keys():
            sunset.remove(*key)
        deprecated = gauge(metrics.DEPRECATED)
        for one in known:
            old = [version for version in one.versions if version.in_traffic and version.deprecated]
            deprecated.labels(one.provider).set(len(old))
        self._exported = set(found)
