"""Endpoints that are older than their configuration keep their address, their secret and their tenant."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db.database import Database
from chassis.db.migrate import alembic_config
from chassis.sealing import Keyring
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from contracts.codec import decode
from contracts.events.sync import EndpointConfigured, endpoint_secret_place
from contracts.topics import SYNC_ENDPOINTS
from sync_worker.connections.vault import Vault
from sync_worker.endpoints.desk import Endpoints

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

CONNECTION = UUID(int=7)
CREATED = datetime(2026, 1, 2, tzinfo=UTC)
URL = "https://gateway.test/hooks/ep-old"


async def migrate(dsn: str, revision: str) -> None:
    def run(connection: sa.Connection) -> None:
        config = alembic_config("sync_worker")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


async def fill(dsn: str, keyring: Keyring) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """INSERT INTO connections (id, tenant, provider, account_ref, state, options, created_at, created_by)
           VALUES ($1, 'shop', 'payer', 'a', 'live', '{}', $2, 'ann')""",
        CONNECTION,
        CREATED,
    )
    for credential in Vault(keyring).seal("shop", CONNECTION, {"webhook": "the-old-secret", "api_key": "other"}):
        await connection.execute(
            "INSERT INTO credentials (connection, name, version, sealed) VALUES ($1, $2, $3, $4)",
            *(credential.connection, credential.kind, credential.version, credential.sealed),
        )
    await connection.execute(
        "INSERT INTO endpoints (id, connection, url, lane, version) VALUES ('ep-old', $1, $2, 'bulk', 1)",
        CONNECTION,
        URL,
    )
    await connection.close()


async def test_an_old_endpoint_can_be_rotated_after_the_migration(
    postgres_server: PostgresAdmin, keyring: Keyring, acts: Endpoints, fakes: Any
) -> None:
    assert fakes
    name = f"old_{uuid4().hex[:8]}"
    dsn = postgres_server.create_database(name, name)
    await migrate(dsn, "0002")
    await fill(dsn, keyring)
    await migrate(dsn, "head")
    assert [dict(row) for row in await rows(dsn, "SELECT slug, parent, name FROM tenants")] == [
        {"slug": "shop", "parent": None, "name": "shop"}
    ]
    (key,) = await rows(dsn, "SELECT key_id, not_after, created_at, created_by FROM endpoint_secrets")
    assert tuple(key) == ("k1", None, CREATED, "ann")
    database = Database(dsn, service="sync-worker")
    await database.open()
    try:
        async with database.unit_of_work() as uow:
            stored = await acts.open(uow, "ep-old")
            assert stored is not None
            assert await acts.add_key(uow, stored, "the-new-secret", "ann", (None, 24)) == "k2"
    finally:
        await database.close()
    (row,) = await rows(dsn, "SELECT value FROM outbox WHERE topic = $1", SYNC_ENDPOINTS.name)
    record = decode(EndpointConfigured, row["value"])
    assert (record.version, record.url, record.lane, record.state) == (2, URL, "bulk", "live")
    assert [(one.token, one.url, one.not_after) for one in record.tokens] == [("ep-old", URL, None)]
    opened = {
        one.key_id: keyring.open(base64.b64decode(one.sealed), endpoint_secret_place("shop", "ep-old", one.key_id))
        for one in record.secrets
    }
    assert opened == {"k2": "the-new-secret", "k1": "the-old-secret"}
