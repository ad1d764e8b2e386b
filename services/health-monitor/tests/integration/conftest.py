"""What the health monitor's integration tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, service_database


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "health_monitor") as opened:
        yield opened
