"""Probes with real credentials: while a route is in trouble, a cheap read every second shows when it works again."""

from __future__ import annotations

from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from contracts.errors import PatchbayError
from providers import registry
from providers.provider import Provider
from providers.sdk import HttpRequest
from sync_worker.connections.vault import Vault
from sync_worker.models import Connection
from sync_worker.outbound.client import CallPlan, ProviderClient
from sync_worker.outbound.route_table import RouteTable
from sync_worker.repository import connections

log = logger(__name__)

# Three good probes reopen a route (health-monitor.md §4.4), so recovery is seen within a few seconds.
PROBE_INTERVAL_S: Final = 1.0


class Prober:
    """Probes troubled routes until cancelled. Outcomes go to the health monitor like any call's, flagged."""

    def __init__(
        self, database: Database, client: ProviderClient, vault: Vault, routes: RouteTable, clock: Clock
    ) -> None:
        self._database = database
        self._client = client
        self._vault = vault
        self._routes = routes
        self._clock = clock

    async def run(self) -> None:
        """Probe every troubled route once per interval."""
        while True:
            for provider, capability in self._routes.troubled():
                try:
                    await self._probe(provider, capability)
                except Exception as error:
                    if not (is_unavailable(error) or isinstance(error, PatchbayError)):
                        raise
            await self._clock.sleep(PROBE_INTERVAL_S)

    async def _probe(self, slug: str, capability: str) -> None:
        provider = registry.get(slug)
        health = provider.manifest.health
        if health is None:
            return
        asking = await self._first_able(provider)
        if asking is None:
            return
        connection, request = asking
        plan = CallPlan(
            provider=provider,
            capability=capability,
            operation="probe",
            tenant=connection.tenant,
            credential=str(connection.id),
            timeout_s=health.probe.timeout_ms / 1000,
            probe=True,
        )
        await self._client.call(plan, request)

    async def _first_able(self, provider: Provider) -> tuple[Connection, HttpRequest] | None:
        """Return the oldest live connection that has the secrets for a probe, with its request."""
        async with self._database.connection() as database:
            for candidate in await connections.live(database, None, [provider.slug]):
                try:
                    request = provider.probe(await self._vault.account(database, candidate.id))
                except (PatchbayError, SealError) as error:
                    log.warning("connection_cannot_probe", connection=str(candidate.id), error=type(error).__name__)
                    continue
                return None if request is None else (candidate, request)
        return None
