"""What was decided and counted before there were modes is live afterwards, and the sandbox has room beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db.database import Database
from chassis.db.migrate import alembic_config
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from health_monitor.keeper import Keeper
from health_monitor.monitor import Monitor
from health_monitor.repository import counts, operators, quotas, routes
from health_monitor.repository.quotas import BucketKey
from health_monitor.statistics import RouteKey

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = RouteKey("acme", "sms")
OLD = (
    """INSERT INTO routes (provider, capability, state, share, reason, decided_at, epoch_generation, epoch_counter,
                           provider_order, shares, probe, idempotent_only, ratio, numbers)
       VALUES ('acme', 'sms', 'down', 0, 'r', $1, 3, 7, '{acme}', '{}', 'burst', false, 0.25, '{}')""",
    """INSERT INTO route_transitions (provider, capability, epoch_generation, epoch_counter, before, after, share,
                                      reason, decided_at, kind, evidence, shares, actor)
       VALUES ('acme', 'sms', 3, 7, 'suspect', 'down', 0, 'r', $1, 'probes', '{}', '{}', '')""",
    """INSERT INTO route_overrides (provider, capability, state, until, reason, actor, at)
       VALUES ('acme', 'sms', 'maintenance', $1, 'works', 'kim', $1)""",
    """INSERT INTO call_minutes (provider, capability, minute, success, client_error, server_error, timeout,
                                 connect_error, throttled, latency_ms_sum, latency_ms_max)
       VALUES ('acme', 'sms', $1, 5, 0, 0, 0, 0, 0, 1, 1)""",
    """INSERT INTO quotas (provider, bucket, version, policy, configured, used_ratio, told, at)
       VALUES ('acme', 'app', 4, '{"provider": "acme", "bucket": "app", "windows": [{"limit": 5, "seconds": 1}],
               "version": 4, "decided_at": "2026-03-01T12:00:00Z"}', NULL, 0, '', $1)""",
)
TABLES = ("routes", "route_transitions", "route_overrides", "call_minutes", "quotas")


async def migrate(dsn: str, revision: str) -> None:
    def run(connection: sa.Connection) -> None:
        config = alembic_config("health_monitor")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


async def test_rows_from_before_the_modes_are_live(postgres_server: PostgresAdmin, replica: Any) -> None:
    name = f"old_{uuid4().hex[:8]}"
    dsn = postgres_server.create_database(name, name)
    await migrate(dsn, "0004")
    connection = await asyncpg.connect(dsn)
    for statement in OLD:
        await connection.execute(statement, AT)
    await connection.close()
    await migrate(dsn, "head")
    for table in TABLES:
        assert [row["mode"] for row in await rows(dsn, f"SELECT mode FROM {table}")] == ["live"]
    database = Database(dsn, service="health-monitor")
    await database.open()
    try:
        async with database.unit_of_work() as uow:
            known = await routes.memory(uow.connection, datetime(2026, 1, 1, tzinfo=UTC))
            assert {key: (one.ratio, one.failovers) for key, one in known.items()} == {KEY: (0.25, 1)}
            assert list((await operators.configuration(uow.connection)).overrides) == [KEY]
            assert (await quotas.lock(uow.connection, BucketKey("acme", "app"))).policy is not None
            assert (await quotas.lock(uow.connection, BucketKey("acme", "app", "sandbox"))).policy is None
            totals = await counts.totals(uow.connection, [KEY], datetime(2026, 1, 1, tzinfo=UTC))
            assert totals[KEY]["success"] == 5
        monitor = Monitor(ManualClock(AT), dice=Random(1))
        monitor.own(range(12), 9)
        keeper = Keeper(monitor, database, None, ManualClock(AT))
        for calls in (replica.calls(("success", 2), mode=mode, provider="acme") for mode in ("live", "sandbox")):
            keeper.take(monitor.observe(calls))
            keeper.count(calls)
        await keeper.save()
    finally:
        await database.close()
    found = await rows(dsn, "SELECT capability, mode FROM routes ORDER BY capability, mode")
    assert [tuple(row) for row in found] == [("messaging.sms", "live"), ("messaging.sms", "sandbox"), ("sms", "live")]
