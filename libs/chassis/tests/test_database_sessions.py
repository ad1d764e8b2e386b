"""What a borrower of a connection leaves behind for the next one: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chassis.db import tenancy
from chassis.db.database import Database
from chassis.testing.harness import make_database
from chassis.testing.postgres import PostgresAdmin

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

SESSIONS = 4


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    opened = Database(await make_database(postgres_server, "CREATE TABLE things (n integer)"), service="test")
    await opened.open()
    yield opened
    await opened.close()


async def seen(database: Database) -> set[str]:
    """Return whose rows the sessions of the pool may see, several borrowed at once."""

    borrowed = asyncio.Barrier(SESSIONS)

    async def one() -> str:
        async with database.connection() as connection:
            await borrowed.wait()
            return str(await connection.fetchval(f"SELECT current_setting('{tenancy.SETTING}')"))

    return set(await asyncio.gather(*(one() for _ in range(SESSIONS))))


async def test_a_narrowed_session_is_wide_again_for_the_next_borrower(database: Database) -> None:
    with tenancy.scope(["acme"]):
        assert await seen(database) == {"acme"}
    assert await seen(database) == {tenancy.EVERYONE}
    with tenancy.scope(["other"]):
        assert await seen(database) == {"other"}


async def test_also_when_its_borrower_failed_or_was_cancelled_in_a_transaction(database: Database) -> None:
    async def fail() -> None:
        async with database.unit_of_work() as uow:
            await uow.connection.execute("INSERT INTO things VALUES (1)")
            raise ValueError

    async def hang() -> None:
        async with database.unit_of_work() as uow:
            await uow.connection.execute("INSERT INTO things VALUES (2)")
            await uow.connection.execute("SELECT pg_sleep(60)")

    with tenancy.scope(["acme"]):
        with pytest.raises(ValueError):  # noqa: PT011 (raised above)
            await fail()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hang()
    assert await seen(database) == {tenancy.EVERYONE}
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM things") == 0


async def test_a_borrower_without_a_scope_leaves_no_statement_behind(database: Database) -> None:
    """Resetting a session that nobody changed would cost each unit of work a round trip."""
    async with database.connection() as other:
        async with database.connection() as connection:
            pid = connection.get_server_pid()
            await connection.execute("SELECT 42")
        last = await other.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
    assert last == "SELECT 42"
