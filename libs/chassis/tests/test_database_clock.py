"""The database's time: the same for all replicas, whatever a machine's clock says or does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from chassis.clock import SystemClock
from chassis.db.clock import MAX_ROUND_TRIP_S, DatabaseClock
from chassis.db.database import Database
from chassis.testing.clock import ManualClock
from chassis.testing.postgres import PostgresAdmin

TRUE = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)


class WrongClock(ManualClock):
    """A machine whose wall clock is off by `offset`, which may jump; its monotonic clock is fine."""

    offset = timedelta(hours=1)

    def now(self) -> datetime:
        return super().now() + self.offset


def read(clock: DatabaseClock, said: datetime, took_s: float = 0.0) -> None:
    asked = clock.monotonic()
    clock.learn(said, asked - took_s, asked)


def test_a_machine_that_is_an_hour_off_tells_the_databases_time_and_its_jumps_change_nothing() -> None:
    machine = WrongClock(TRUE)
    clock = DatabaseClock(machine)
    assert clock.now() == TRUE + timedelta(hours=1), "nothing was read yet"
    read(clock, TRUE)
    machine.advance(30)
    machine.offset = -machine.offset
    assert clock.now() == TRUE + timedelta(seconds=30)
    read(clock, TRUE + timedelta(seconds=31))
    assert clock.now() == TRUE + timedelta(seconds=31), "the database is right, also about itself"


def test_an_answer_that_took_long_says_too_little_unless_it_is_the_first() -> None:
    machine = ManualClock(TRUE)
    clock = DatabaseClock(machine)
    read(clock, TRUE, took_s=2 * MAX_ROUND_TRIP_S)
    assert clock.now() == TRUE + timedelta(seconds=MAX_ROUND_TRIP_S), "said in the middle of its round trip"
    read(clock, TRUE - timedelta(hours=2), took_s=2 * MAX_ROUND_TRIP_S)
    assert clock.now() == TRUE + timedelta(seconds=MAX_ROUND_TRIP_S)


@pytest.mark.asyncio
@pytest.mark.integration
async def test_a_database_knows_its_time_once_it_is_open(postgres_server: PostgresAdmin) -> None:
    database = Database(postgres_server.create_database("clocks", "clocks"), service="clocks")
    await database.open()
    try:
        assert abs(database.clock.now() - SystemClock().now()) < timedelta(seconds=1)
        database.clock.learn(TRUE, database.clock.monotonic(), database.clock.monotonic())
        assert abs(database.clock.now() - TRUE) < timedelta(seconds=1)
        await database.ping()
        assert abs(database.clock.now() - SystemClock().now()) < timedelta(seconds=1), "each ping reads it again"
    finally:
        await database.close()
