"""What the verification service's integration tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database, write_keyring
from verification import audit, routes
from verification.checks import MockCheck
from verification.tags import Tagger
from verification.verify import AgeVerifier, Limits

LIMITS = Limits(attempts=3, attempt_window=timedelta(hours=24), attestation=timedelta(days=365), check_timeout_s=3.0)


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.load(write_keyring(tmp_path))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 6, 15, 12, 0, tzinfo=UTC))


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "verification") as opened:
        yield opened


@pytest.fixture
def verifier(database: Database, keyring: Keyring, clock: ManualClock) -> AgeVerifier:
    return AgeVerifier(database, MockCheck(clock), Tagger(keyring), clock, LIMITS)


@pytest_asyncio.fixture
async def client(
    database: Database, verifier: AgeVerifier, issuer: LocalIssuer, clock: ManualClock
) -> AsyncIterator[httpx.AsyncClient]:
    tokens = issuer.verifier()
    served = [*routes.routes(verifier, tokens, clock), *audit.routes(database, tokens)]
    async with api_client(served, issuer.headers(Role.OPERATOR, subject="op-1")) as opened:
        yield opened
