"""The HTTP API of a deployment that reaches no provider, on a real database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from chassis.db.database import Database
from chassis.effects.desk import EffectDesk
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from contracts.codec import decode
from contracts.events.platform import AuditRecorded
from contracts.events.sync import EndpointConfigured
from contracts.topics import PLATFORM_AUDIT, SYNC_ENDPOINTS, SYNC_RESULTS
from sync_worker.connections.parts import Parts, Surroundings
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.routes import ConnectionApi
from sync_worker.effects.participant import ProviderEffects
from sync_worker.effects.routes import EffectApi
from sync_worker.effects.targets import Targets
from sync_worker.endpoints.desk import Endpoints
from sync_worker.outbound.route_table import RouteTable
from sync_worker_support.calls import ScriptedClient


def connection_api(database: Database, keyring: Keyring, acts: Endpoints, clock: ManualClock) -> ConnectionApi:
    """Return the connection handlers of a deployment that reaches no provider."""
    parts = Parts.build(database, keyring, acts, clock, Surroundings("https://api.patchbay.test"))
    client: Any = ScriptedClient()
    return ConnectionApi(database, parts, ConnectionTest(database, client, clock), clock)


def effect_api(database: Database, keyring: Keyring, clock: ManualClock) -> EffectApi:
    """Return the effect handlers of a deployment that reaches no provider."""
    targets = Targets(keyring, RouteTable(), clock)
    unreachable: Any = None
    desk = EffectDesk(ProviderEffects(targets, unreachable, unreachable), SYNC_RESULTS, clock)
    return EffectApi(database, desk, targets, clock)


@dataclass(frozen=True)
class Platform:
    """All routes with the role operator, and what was published about endpoints and tenants."""

    database: Database
    api: httpx.AsyncClient

    async def connect(self, secret: str, tenant: str = "t1", account_ref: str = "acct") -> tuple[str, str]:
        """Connect an account and return the connection and the path of its endpoint."""
        secrets = {"webhook": secret, "api_key": f"{secret}-api"}
        body = {"provider": "payer", "tenant": tenant, "account_ref": account_ref, "secrets": secrets}
        made = (await self.api.post("/v1/connections", json=body)).json()
        return made["id"], f"/v1/endpoints/{made['endpoints'][0]['id']}"

    async def records(self, endpoint: str) -> list[EndpointConfigured | None]:
        """Return what was published about an endpoint, in the order of the topic; None is its tombstone."""
        key = endpoint.rpartition("/")[2].encode()
        query = "SELECT value FROM outbox WHERE topic = $1 AND key = $2 ORDER BY xid, id"
        found = [row["value"] for row in await rows(self.database.dsn, query, SYNC_ENDPOINTS.name, key)]
        return [None if value is None else decode(EndpointConfigured, value) for value in found]

    async def newest(self, endpoint: str) -> Any:
        return (await self.records(endpoint))[-1]

    async def audited(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return who did what to endpoints and tenants, with the details."""
        query = "SELECT value FROM outbox WHERE topic = $1 ORDER BY xid, id"
        found = await rows(self.database.dsn, query, PLATFORM_AUDIT.name)
        entries = [decode(AuditRecorded, row["value"]) for row in found]
        return [(one.actor, one.action, one.detail) for one in entries if not one.target.startswith("connection/")]
