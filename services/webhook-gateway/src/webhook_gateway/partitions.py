"""Daily partitions of the ledger's large tables: made ahead of time, and dropped when their retention is over.

A row whose day has no partition goes to the default one, so that a wrong clock never stops the ledger; making the
day's partition moves such rows. Must never drop a day that is not wholly older than the retention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

from chassis.clock import Clock
from chassis.db.connection import Connection, is_retryable, is_unavailable
from chassis.db.database import Database
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from webhook_gateway.metrics import LEDGER_PARTITIONS, LEDGER_PARTITIONS_DROPPED

log = logger(__name__)

SCHEMA: Final = "partitions"
# A week ahead survives a long weekend in which the job cannot run.
DAYS_AHEAD: Final = 7
INTERVAL_S: Final = 3600.0
# One replica at a time; the number only has to differ from the chassis' own locks.
_LOCK: Final = 7_241_101
# A day's rows may be large once they sit in the default partition; the pool's 15 s are for requests.
_MOVE_TIMEOUT: Final = "10min"
# Counts are small; a year and a month lets a month be compared with last year's.
COUNTS_KEPT: Final = timedelta(days=400)
_FORGET: Final = (
    "DELETE FROM partitions.deliveries_default WHERE received_at < $1",
    "DELETE FROM partitions.effects_default WHERE at < $1",
    "DELETE FROM replay_jobs WHERE ended_at < $1",
    "DELETE FROM dead_letters WHERE state <> 'open' AND settled_at < $1",
    "DELETE FROM issues WHERE resolved_at < $1",
)
_DELETE_ROWS: Final = 2_000
_DELETE_ROUNDS: Final = 50


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A table that is partitioned by the day of one of its columns."""

    table: str
    column: str

    def partition(self, day: date) -> str:
        """Return the name of a day's partition, with its schema."""
        return f"{SCHEMA}.{self.table}_{day:%Y%m%d}"


DELIVERIES: Final = Partitioned("deliveries", "received_at")
EFFECTS: Final = Partitioned("effects", "at")


async def days(connection: Connection, table: Partitioned) -> list[date]:
    """Return the days that have a partition, oldest first."""
    names = await connection.fetch(
        """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE i.inhparent = $1::text::regclass AND n.nspname = $2 AND c.relname ~ '_[0-9]{8}$' ORDER BY 1""",
        table.table,
        SCHEMA,
    )
    return [datetime.strptime(row[0][-8:], "%Y%m%d").replace(tzinfo=UTC).date() for row in names]


async def make(connection: Connection, table: Partitioned, day: date) -> None:
    """Make a day's partition, moving there what the default one holds of it; the caller's transaction decides."""
    name, start, end = table.partition(day), day.isoformat(), (day + timedelta(days=1)).isoformat()
    within = f"{table.column} >= '{start}+00' AND {table.column} < '{end}+00'"
    await connection.execute(f"SET LOCAL statement_timeout = '{_MOVE_TIMEOUT}'")
    await connection.execute(f"CREATE TABLE {name} (LIKE {table.table} INCLUDING ALL)")
    # The same move for every day: the default partition is empty but after a fault, and then an index finds its rows.
    await connection.execute(
        f"""WITH moved AS (DELETE FROM {SCHEMA}.{table.table}_default WHERE {within} RETURNING *)
            INSERT INTO {name} SELECT * FROM moved"""  # noqa: S608 (names and days of ours)
    )
    await connection.execute(
        f"ALTER TABLE {table.table} ATTACH PARTITION {name} FOR VALUES FROM ('{start}+00') TO ('{end}+00')"
    )


class PartitionKeeper:
    """Makes and drops partitions, and deletes the rows of tenants with a shorter retention; one per process.

    `retention_days` counts whole days after the day of a delivery; `tenant_days` holds shorter ones by tenant.
    """

    def __init__(
        self, database: Database, clock: Clock, *, retention_days: int, tenant_days: Mapping[str, int] | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention_days = retention_days
        self._tenant_days = dict(tenant_days or {})

    async def run(self) -> None:
        """Keep until cancelled: at once, then hourly. An outage or a lock is waited out."""
        while True:
            try:
                await self.keep()
            except Exception as error:
                if not (is_unavailable(error) or is_retryable(error) or _is_locked(error)):
                    raise
                log.warning("partitions_not_kept", error=type(error).__name__)
            await self._clock.sleep(INTERVAL_S)

    async def keep(self) -> None:
        """Make what is missing until `DAYS_AHEAD`, drop what is over; does nothing while another replica does it."""
        today = self._clock.now().date()
        for table in (DELIVERIES, EFFECTS):
            async with self._database.connection() as connection:
                present = await days(connection, table)
            for day in (today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)):
                if day not in present:
                    await self._change(table, day, drop=False)
            for day in present:
                if day < today - timedelta(days=self._retention_days):
                    await self._change(table, day, drop=True)
            gauge(LEDGER_PARTITIONS).labels(table.table).set(len(present))
        for tenant, kept in self._tenant_days.items():
            await self._forget(tenant, self._clock.now() - timedelta(days=kept))
        await self._forget_the_rest(self._clock.now() - timedelta(days=self._retention_days + 1))

    async def _change(self, table: Partitioned, day: date, *, drop: bool) -> None:
        async with self._database.unit_of_work() as uow:
            await uow.connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            if (day in await days(uow.connection, table)) is not drop:
                return
            if drop:
                await uow.connection.execute(f"DROP TABLE {table.partition(day)}")
                uow.after_commit(counter(LEDGER_PARTITIONS_DROPPED).labels(table.table).inc)
            else:
                await make(uow.connection, table, day)
        log.info("partition_dropped" if drop else "partition_made", table=table.table, day=day.isoformat())

    async def _forget(self, tenant: str, before: datetime) -> None:
        """Delete a tenant's deliveries in short transactions, so that nobody waits for their locks."""
        for _ in range(_DELETE_ROUNDS):
            async with self._database.unit_of_work() as uow:
                gone = await uow.connection.fetch(
                    """DELETE FROM deliveries WHERE (id, item, received_at) IN (
                           SELECT id, item, received_at FROM deliveries
                           WHERE tenant = $1 AND received_at < $2 ORDER BY received_at LIMIT $3) RETURNING 1""",
                    tenant,
                    before,
                    _DELETE_ROWS,
                )
            if len(gone) < _DELETE_ROWS:
                return

    async def _forget_the_rest(self, before: datetime) -> None:
        """Delete what is too old and stands in no partition that could be dropped."""
        counted_before = self._clock.now() - COUNTS_KEPT
        async with self._database.unit_of_work() as uow:
            for statement in _FORGET:
                await uow.connection.execute(statement, before)
            await uow.connection.execute("DELETE FROM delivery_hours WHERE hour < $1", counted_before)


def _is_locked(error: BaseException) -> bool:
    """Tell whether a statement gave up waiting for a lock that readers hold; the next round tries again."""
    return getattr(error, "sqlstate", "") == "55P03"
