"""Fixtures of the sync worker's tests; what they are made of stands in `support/`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database
from contracts.errors import Invalid
from contracts.ids import uuid7
from providers import registry
from providers.provider import Provider
from providers.sdk import HttpResponse, PaymentSnapshot
from sync_worker.connections.routes import connection_routes
from sync_worker.effects.routes import effect_routes
from sync_worker.endpoints.configuration import Limits
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.routes import EndpointApi, TenantApi, endpoint_routes, tenant_routes
from sync_worker.endpoints.tenant_tree import TenantTree
from sync_worker.outbound.client import Failure
from sync_worker.outbound.path import Path as CallPath
from sync_worker.routes import Api, routes
from sync_worker_support.calls import path_of
from sync_worker_support.desk import Desk
from sync_worker_support.fakes import LIMITS, MUTE, OTHER, PAYER, START, TEXTER, answered, snapshot
from sync_worker_support.platform import Platform, connection_api, effect_api


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Provider]:
    """Let the registry hold the fake providers and no other."""
    found: dict[str, Provider] = {one.slug: one for one in (PAYER, MUTE, TEXTER, OTHER)}

    def get(slug: str) -> Provider:
        if slug not in found:
            raise Invalid("unknown_provider", "there is no such provider", field="provider")
        return found[slug]

    monkeypatch.setattr(registry, "get", get)
    monkeypatch.setattr(registry, "all_providers", lambda: list(found.values()))
    monkeypatch.setattr(
        registry, "with_operation", lambda name: [p for p in found.values() if p.manifest.operation(name)]
    )
    return found


@dataclass(frozen=True)
class Kit:
    """What test files need from here: they cannot import a conftest."""

    new_id: Callable[[], UUID] = uuid7
    payer: Provider = PAYER
    mute: Provider = MUTE
    texter: Provider = TEXTER
    other: Provider = OTHER
    answered: Callable[..., HttpResponse] = answered
    path_of: Callable[..., CallPath] = path_of
    snapshot: Callable[..., PaymentSnapshot] = snapshot
    start: datetime = START
    limits: Limits = LIMITS
    unanswered: Failure = field(default_factory=lambda: Failure("timeout"))
    unsent: Failure = field(default_factory=lambda: Failure("unsent"))
    broken: Failure = field(default_factory=lambda: Failure("broken"))


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring({1: b"\x01" * 32}, 1)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture
def acts(keyring: Keyring, clock: ManualClock) -> Endpoints:
    return Endpoints(keyring, clock, "https://gateway.test", LIMITS)


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest_asyncio.fixture(scope="session")
async def migrated(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "sync_worker") as opened:
        yield opened


@pytest_asyncio.fixture
async def database(migrated: Database) -> Database:
    """Give the service's database, emptied: migrating one per test would take a second each."""
    async with migrated.connection() as connection:
        await connection.execute(
            """TRUNCATE connections, credentials, oauth_flows, endpoints, endpoint_secrets, endpoint_tokens, tenants,
                        payments, cursors, subscriptions, effects, inbox, outbox, idempotent_answers"""
        )
    return migrated


@pytest.fixture
def desk(database: Database, keyring: Keyring, fakes: dict[str, Provider]) -> Desk:  # noqa: ARG001 (its effect)
    return Desk(database, keyring)


@pytest_asyncio.fixture
async def platform(
    database: Database, keyring: Keyring, issuer: LocalIssuer, clock: ManualClock, acts: Endpoints
) -> AsyncIterator[Platform]:
    tokens = issuer.verifier()
    served = [
        *routes(Api(database), tokens),
        *connection_routes(connection_api(database, keyring, acts, clock), tokens),
        *effect_routes(effect_api(database, keyring, clock), tokens),
        *endpoint_routes(EndpointApi(database, acts, clock, OfferedCodes(keyring)), tokens),
        *tenant_routes(TenantApi(database, TenantTree(acts, clock, LIMITS)), tokens),
    ]
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="ann")) as client:
        yield Platform(database, client)


@pytest.fixture
def api(platform: Platform) -> httpx.AsyncClient:
    return platform.api
