"""Shared commits: who waits together commits together, and nobody is answered before it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from chassis.db.database import Database, UnitOfWork
from chassis.db.group_commit import GATHER_S, MAX_BATCH, WIDTH, GroupCommit
from chassis.testing.clock import ManualClock
from chassis.testing.harness import make_database, rows
from chassis.testing.postgres import PostgresAdmin

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

TABLE = "CREATE TABLE things (n integer PRIMARY KEY, batch integer NOT NULL)"


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    opened = Database(await make_database(postgres_server, TABLE), service="test")
    await opened.open()
    yield opened
    await opened.close()


class Writer:
    """Writes numbers, each with the number of its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, uow: UnitOfWork, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        values = [(number, len(self.batches)) for number in numbers]
        await uow.connection.executemany("INSERT INTO things VALUES ($1, $2)", values)
        return [number * 2 for number in numbers]


async def test_everybody_gets_the_result_of_their_own_and_commits_are_few(database: Database) -> None:
    writer = Writer()
    commit: GroupCommit[UnitOfWork, int, int] = GroupCommit(database.unit_of_work, writer)
    numbers = list(range(MAX_BATCH + 50))
    assert await asyncio.gather(*map(commit.submit, numbers)) == [number * 2 for number in numbers]
    assert len(writer.batches) <= 4
    assert max(map(len, writer.batches)) <= MAX_BATCH
    stored = await rows(database.dsn, "SELECT n FROM things ORDER BY n")
    assert [one["n"] for one in stored] == numbers


async def test_a_batch_that_fails_fails_for_all_of_it_and_the_next_goes_on(database: Database) -> None:
    commit: GroupCommit[UnitOfWork, int, int] = GroupCommit(database.unit_of_work, Writer())
    await commit.submit(1)
    found = await asyncio.gather(commit.submit(2), commit.submit(1), return_exceptions=True)
    assert all(isinstance(one, Exception) for one in found)
    assert await commit.submit(2) == 4
    assert [one["n"] for one in await rows(database.dsn, "SELECT n FROM things ORDER BY n")] == [1, 2]


async def test_one_alone_never_waits_and_who_comes_with_others_is_gathered() -> None:
    clock = ManualClock()
    batches: list[list[int]] = []
    inside, go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def unit() -> AsyncIterator[None]:
        yield

    async def apply(_unit: None, items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        if len(items) > 1:
            inside.set()
            await go_on.wait()
        return items

    commit: GroupCommit[None, int, int] = GroupCommit(unit, apply, clock)
    assert await commit.submit(1) == 1, "the clock stands still"
    first = [asyncio.create_task(commit.submit(number)) for number in (2, 3)]
    await inside.wait()
    early = asyncio.create_task(commit.submit(4))
    for _ in range(5):
        await asyncio.sleep(0)
    late = asyncio.create_task(commit.submit(5))
    await asyncio.sleep(0)
    assert batches == [[1], [2, 3]], "who comes while others commit waits for company"
    clock.advance(GATHER_S)
    go_on.set()
    assert await asyncio.gather(*first) == [2, 3]
    assert (await early, await late) == (4, 5)
    assert batches == [[1], [2, 3], [4, 5]]


async def test_no_more_commits_are_under_way_than_allowed_and_all_come_to_their_turn() -> None:
    clock, under_way, most = ManualClock(), 0, 0

    @asynccontextmanager
    async def unit() -> AsyncIterator[None]:
        yield

    async def apply(_unit: None, items: Sequence[int]) -> Sequence[int]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await clock.sleep(1)
        under_way -= 1
        return items

    commit: GroupCommit[None, int, int] = GroupCommit(unit, apply, clock)
    waiting = []
    for number in range(20):
        waiting.append(asyncio.create_task(commit.submit(number)))
        for _ in range(5):
            await asyncio.sleep(0)
        clock.advance(GATHER_S)
    while not all(one.done() for one in waiting):
        clock.advance(0.5)
        await asyncio.sleep(0)
    assert [one.result() for one in waiting] == list(range(20))
    assert most == WIDTH
