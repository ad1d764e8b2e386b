"""Daily partitions: what was stored before them, making, dropping, and rows without one."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.db.database import Database
from chassis.db.migrate import alembic_config, upgrade
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from contracts.ids import uuid7
from webhook_gateway.partitions import DAYS_AHEAD, DELIVERIES, EFFECTS, PartitionKeeper, days

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]


async def present(database: Database) -> dict[str, list[date]]:
    async with database.connection() as connection:
        return {table.table: await days(connection, table) for table in (DELIVERIES, EFFECTS)}


async def test_rows_from_before_are_moved_and_found(postgres_server: PostgresAdmin) -> None:
    dsn = await asyncio.to_thread(postgres_server.create_database, "ledger_before", "ledger_before")
    await _upgrade_to(dsn, "0001")
    old = [UUID(int=uuid7().int) for _ in range(3)]
    connection = await asyncpg.connect(dsn)
    for place, (identifier, outcome) in enumerate(zip(old, ("accepted", "duplicate", "rejected"), strict=True)):
        await connection.execute(
            """INSERT INTO deliveries VALUES ($1, 0, $2, $3, NULL, 'acme', 't1', 'ep-1', $1, 'standard', $4, 'thing',
                   'payment:p1', 'POST', 'k1', $5, '', 'topic', 0, $6, '[]', 'application/json', '', $7, 'ab')""",
            identifier,
            outcome,
            "bad_signature" if outcome == "rejected" else "",
            "" if outcome == "rejected" else "e1",
            datetime(2026, 1, 5 + 10 * place, 23, 59, tzinfo=UTC),
            place,
            b'{"id": 1}',
        )
    await connection.close()
    await asyncio.to_thread(upgrade, "webhook_gateway", dsn)
    moved = await rows(
        dsn,
        """SELECT id, outcome, body, message_id, record_key, tableoid::regclass::text AS t
           FROM deliveries ORDER BY received_at""",
    )
    assert [(row["id"], row["outcome"], row["body"]) for row in moved] == [
        (identifier, outcome, b'{"id": 1}')
        for identifier, outcome in zip(old, ("accepted", "duplicate", "rejected"), strict=True)
    ]
    assert [(row["message_id"], row["record_key"]) for row in moved[::2]] == [("e1", "t1:payment:p1"), ("", "ep-1")]
    assert [row["t"] for row in moved] == [f"partitions.deliveries_202601{day:02}" for day in (5, 15, 25)]
    counted = await rows(dsn, "SELECT sum(deliveries) AS n FROM delivery_hours")
    assert counted[0]["n"] == 3


async def test_days_are_made_ahead_and_dropped_after_retention(ledger: Any, make: Any) -> None:
    ledger.clock._now = datetime(2030, 6, 1, 12, tzinfo=UTC)
    keeper = PartitionKeeper(ledger.database, ledger.clock, retention_days=30)
    await keeper.keep()
    before = (await present(ledger.database))["deliveries"]
    await keeper.keep()
    assert (await present(ledger.database))["deliveries"] == before
    wanted = [date(2030, 6, 1) + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)]
    assert [day for day in before if day >= date(2030, 6, 1)] == wanted
    # Partitions of the year in which this runs are long over.
    assert before == wanted
    kept, dropped = ledger.clock.now(), ledger.clock.now() + timedelta(days=DAYS_AHEAD)
    await ledger.store(make.accepted("old", at=kept), make.accepted("young", at=dropped))
    ledger.clock.advance(timedelta(days=30).total_seconds())
    await keeper.keep()
    assert {one["event_id"] for one in await ledger.search()} == {"old", "young"}
    ledger.clock.advance(timedelta(days=1).total_seconds())
    await keeper.keep()
    assert [one["event_id"] for one in await ledger.search()] == ["young"]


async def test_a_row_without_a_partition_moves_into_it_once_it_is_made(ledger: Any, make: Any) -> None:
    ledger.clock._now = datetime(2031, 1, 1, tzinfo=UTC)
    far = datetime(2031, 1, 3, 7, tzinfo=UTC)
    await ledger.store(make.accepted("early", at=far))
    where = "SELECT tableoid::regclass::text AS t FROM deliveries"
    assert [row["t"] for row in await rows(ledger.database.dsn, where)] == ["partitions.deliveries_default"]
    await PartitionKeeper(ledger.database, ledger.clock, retention_days=5).keep()
    assert [row["t"] for row in await rows(ledger.database.dsn, where)] == ["partitions.deliveries_20310103"]
    # And one that is long over goes from the default partition too.
    await ledger.store(make.accepted("late", at=far - timedelta(days=100)))
    await PartitionKeeper(ledger.database, ledger.clock, retention_days=5).keep()
    assert [one["event_id"] for one in await ledger.search()] == ["early"]


async def test_a_partition_has_each_index_once(ledger: Any) -> None:
    await PartitionKeeper(ledger.database, ledger.clock, retention_days=9000).keep()
    found = await rows(
        ledger.database.dsn,
        """SELECT c.relname, count(*) AS n FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
           WHERE c.relname ~ '^deliveries' AND c.relkind IN ('r', 'p') GROUP BY 1""",
    )
    assert len({row["n"] for row in found}) == 1
    assert len(found) > DAYS_AHEAD


async def test_two_replicas_make_each_day_once(ledger: Any) -> None:
    ledger.clock._now = datetime(2032, 1, 1, tzinfo=UTC)
    keepers = [PartitionKeeper(ledger.database, ledger.clock, retention_days=30) for _ in range(2)]
    await asyncio.gather(*(keeper.keep() for keeper in keepers))
    assert len((await present(ledger.database))["effects"]) == DAYS_AHEAD + 1


async def test_a_tenant_may_be_forgotten_sooner(ledger: Any, make: Any) -> None:
    await ledger.store(
        *(
            make.accepted(f"{tenant}{day}", tenant=tenant, at=make.start - timedelta(days=day))
            for tenant in ("t1", "t2")
            for day in (1, 9)
        )
    )
    await PartitionKeeper(ledger.database, ledger.clock, retention_days=90, tenant_days={"t2": 7}).keep()
    assert sorted(one["event_id"] for one in await ledger.search()) == ["t11", "t19", "t21"]


async def _upgrade_to(dsn: str, revision: str) -> None:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://", 1))

    def run(connection: sa.Connection) -> None:
        config = alembic_config("webhook_gateway")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()
