"""`python -m bench.ledger_search`: how long searches of a large ledger take, beside a plain table without its indexes.

A private PostgreSQL with the ledger's own migrations gets `--rows` deliveries over 90 days, by `INSERT … SELECT` inside
the server. Searches go through the ledger's own functions. Percentiles are of calls in a row by one client.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from chassis.db.connection import init_connection
from chassis.db.database import Database
from chassis.testing.postgres import PrivatePostgres
from chassis.testing.service_kit import migrated_dsn
from webhook_gateway.partitions import DELIVERIES, days, make
from webhook_gateway.repository.search import search
from webhook_gateway.selection import DeliveryFilter

DAYS = 90
# One entity has 20 deliveries: a payment with its changes, or a customer of a few orders.
PER_ENTITY = 20
CHUNK = 100_000
FILLERS = 2
START = datetime(2026, 1, 1, tzinfo=UTC)
TABLE = "deliveries"
PLAIN = "plain_deliveries"

# About 700 bytes of JSON, as a payment event has; `md5` makes it compress as little as real ids do.
FILL = """
INSERT INTO {table} (id, item, received_at, outcome, reason, status, settled, provider, tenant, endpoint, connection,
    lane, origin, replay, event_id, event_type, event_sha256, api_version, entity, items, method, key_id, message_id,
    source, record_key, trace_id, traceparent, topic, partition, "offset", headers, content_type, encoding, cards, body,
    body_bytes, body_sha256, claim, place, document)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
        || substr(md5(n::text), 4, 15))::uuid,
    0, at, CASE WHEN n % 33 = 0 THEN 'duplicate' ELSE 'accepted' END, '', NULL, '', 'provider' || n % 12,
    'tenant' || n % 40, 'ep-' || n % 120, '0195c000-0000-7000-8000-000000000001', 'standard', 'webhook', '',
    'evt_' || n, 'type.' || n % 30, md5(n::text), '', 'payment:pay_' || n % {entities}, 0, 'POST', 'k1', 'evt_' || n,
    'patchbay/webhook-gateway/x', 'tenant:payment:' || n % {entities}, md5('t' || n), '', 'lane', n % 12, n, '[]',
    'application/json', '', 0, convert_to(document::text, 'UTF8'), 700, md5(n::text), '', '', document
FROM (SELECT n, '{start}'::timestamptz + n * ('{days} days'::interval / {rows}) AS at,
          jsonb_build_object('id', 'evt_' || n, 'type', 'type.' || n % 30, 'created', n, 'data', jsonb_build_object(
              'object', jsonb_build_object('id', 'pay_' || n % {entities}, 'amount', n % 100000, 'currency', 'eur',
                  'customer', md5('c' || n % 1000), 'order', 'ord_' || n, 'note', md5('a' || n) || md5('b' || n),
                  'address', jsonb_build_object('line1', md5('d' || n), 'city', 'city' || n % 500)))) AS document
      FROM generate_series({first}, {last}) AS n) AS made
"""


async def fill(dsn: str, table: str, rows: int) -> None:
    """Insert rows in chunks over `FILLERS` connections, printing how far it is."""
    chunks = iter(range(0, rows, CHUNK))
    started, done = time.perf_counter(), 0

    async def worker() -> None:
        nonlocal done
        connection = await asyncpg.connect(dsn)
        await init_connection(connection)
        for first in chunks:
            last = min(rows, first + CHUNK) - 1
            facts = {"entities": max(1, rows // PER_ENTITY), "start": START.isoformat(), "days": DAYS, "rows": rows}
            await connection.execute(FILL.format(table=table, first=first, last=last, **facts), timeout=3600)
            done += last + 1 - first
            rate = done / (time.perf_counter() - started)
            print(f"  {table}: {done:>12,} rows, {rate:,.0f} rows/s", flush=True)
        await connection.close()

    await asyncio.gather(*(worker() for _ in range(FILLERS)))


async def timed(call: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    """Return the milliseconds of each of `count` calls, after one that warms up."""
    await call()
    out: list[float] = []
    for _ in range(count):
        started = time.perf_counter()
        await call()
        out.append((time.perf_counter() - started) * 1000)
    return out


def line(name: str, times: list[float]) -> str:
    """Return one result as text."""
    ordered = sorted(times)
    at = {share: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 0.99)}
    return f"{name:<44} p50 {at[0.5]:>9.2f} ms  p95 {at[0.95]:>9.2f} ms  p99 {at[0.99]:>9.2f} ms  ({len(times)} calls)"


async def measure(dsn: str, rows: int, calls: int) -> dict[str, list[float]]:
    """Run the searches of the ledger."""
    source = random.Random(7)
    entities = max(1, rows // PER_ENTITY)
    database = Database(dsn, service="bench")
    await database.open()

    async def find(limit: int = 51, after: list[Any] | None = None, **wanted: Any) -> list[dict[str, Any]]:
        found = await search(database, DeliveryFilter(**wanted), after, limit)
        if not found and "tenant" not in wanted:
            raise AssertionError(f"nothing found for {wanted}")
        return found

    def entity() -> str:
        return f"payment:pay_{source.randrange(entities)}"

    def day() -> dict[str, Any]:
        start = START + timedelta(days=source.randrange(DAYS - 1))
        return {"received_from": start, "received_to": start + timedelta(days=1)}

    def order_path() -> str:
        return f'$.data.object.order ? (@ == "ord_{source.randrange(rows)}")'

    async def page_through() -> None:
        after: list[Any] | None = None
        for _ in range(20):
            found = await find(limit=200, after=after, provider=f"provider{source.randrange(12)}")
            after = [found[-1]["received_at"].isoformat(), str(found[-1]["id"]), found[-1]["item"]]

    async def deep_page() -> None:
        at = START + timedelta(days=source.uniform(1, DAYS))
        await find(limit=201, after=[at.isoformat(), "00000000-0000-0000-0000-000000000000", 0])

    try:
        return {
            "search by entity": await timed(lambda: find(entity=entity()), calls),
            "search by entity and tenant (often none)": await timed(
                lambda: find(entity=entity(), tenant="tenant1"), calls
            ),
            "newest 50 of all": await timed(find, calls),
            "newest 50 of an endpoint": await timed(lambda: find(endpoint=f"ep-{source.randrange(120)}"), calls),
            "a page of 200 from anywhere": await timed(deep_page, calls),
            "JSON path, one match, any day": await timed(lambda: find(path=order_path()), max(10, calls // 4)),
            "JSON path, one match, within its day": await timed(
                lambda: find_in_day(find, source, rows), max(10, calls // 4)
            ),
            "JSON path, frequent value": await timed(
                lambda: find(path='$.data.object.currency ? (@ == "eur")'), max(10, calls // 10)
            ),
            "provider and type within one day": await timed(
                lambda: find(provider="provider1", type="type.1*", **day()), calls
            ),
            "20 pages of 200 by provider": await timed(page_through, max(5, calls // 20)),
        }
    finally:
        await database.close()


async def find_in_day(find: Callable[..., Awaitable[Any]], source: random.Random, rows: int) -> None:
    """Search one order by JSON path within the day on which it came."""
    number = source.randrange(rows)
    at = START + timedelta(days=DAYS) * (number / rows)
    wanted = {"received_from": at - timedelta(hours=12), "received_to": at + timedelta(hours=12)}
    await find(path=f'$.data.object.order ? (@ == "ord_{number}")', **wanted)


async def baseline(connection: asyncpg.Connection[Any], rows: int, calls: int) -> dict[str, list[float]]:
    """Run the same questions on one table with a primary key and an index by time, and nothing else."""
    source = random.Random(7)
    columns = "id, item, outcome, provider, tenant, endpoint, event_id, event_type, entity, received_at"
    newest = "ORDER BY received_at DESC, id DESC, item DESC LIMIT 51"

    async def by_entity() -> None:
        entity = f"payment:pay_{source.randrange(max(1, rows // PER_ENTITY))}"
        await connection.fetch(f"SELECT {columns} FROM {PLAIN} WHERE entity = $1 {newest}", entity)

    async def by_path() -> None:
        path = f'$.data.object.order ? (@ == "ord_{source.randrange(rows)}")'
        await connection.fetch(f"SELECT {columns} FROM {PLAIN} WHERE document @? $1::text::jsonpath {newest}", path)

    async def by_offset() -> None:
        await connection.fetch(
            f"SELECT {columns} FROM {PLAIN} ORDER BY received_at DESC, id DESC, item DESC LIMIT 200 OFFSET $1",
            source.randrange(rows - 200),
        )

    return {
        "search by entity": await timed(by_entity, calls),
        "JSON path, one match, any day": await timed(by_path, calls),
        "a page of 200 from anywhere (OFFSET)": await timed(by_offset, calls),
    }


async def prepare(dsn: str, rows: int, plain_rows: int) -> None:
    """Make the partitions, fill both tables and let the planner know."""
    connection = await asyncpg.connect(dsn)
    try:
        await init_connection(connection)
        present = await days(connection, DELIVERIES)
        for number in range(DAYS):
            day = (START + timedelta(days=number)).date()
            if day not in present:
                async with connection.transaction():
                    await make(connection, DELIVERIES, day)
        await fill(dsn, TABLE, rows)
        await connection.execute(f"CREATE TABLE {PLAIN} (LIKE {TABLE} INCLUDING DEFAULTS)")
        await connection.execute(f"ALTER TABLE {PLAIN} ADD PRIMARY KEY (id, item)")
        await connection.execute(f"CREATE INDEX ON {PLAIN} (received_at, id, item)")
        await fill(dsn, PLAIN, plain_rows)
        await connection.execute("VACUUM ANALYZE", timeout=3600)
        for name in (TABLE, PLAIN):
            await sizes(connection, name)
    finally:
        await connection.close()


async def sizes(connection: asyncpg.Connection[Any], table: str) -> None:
    """Print what a table and each of its indexes take, over all partitions."""
    members = """SELECT relid FROM pg_partition_tree($1::text::regclass) UNION SELECT $1::text::regclass"""
    heap = await connection.fetchval(f"SELECT sum(pg_table_size(relid)) FROM ({members}) AS m", table)
    rows = await connection.fetch(
        f"""SELECT name, sum(size) AS size FROM (
                SELECT substring(pg_get_indexdef(i.indexrelid) FROM 'USING (.*)') AS name,
                    pg_relation_size(i.indexrelid) AS size
                FROM ({members}) AS m JOIN pg_index i ON i.indrelid = m.relid) AS one
            GROUP BY 1 ORDER BY 2 DESC""",
        table,
    )
    print(f"  {table}: {heap / 2**20:,.0f} MiB of rows")
    for row in rows:
        print(f"    {row['size'] / 2**20:>10,.0f} MiB  {row['name']}")


async def run(rows: int, plain_rows: int, calls: int, folder: Path) -> None:
    """Fill, measure and print."""
    with PrivatePostgres(folder / "postgres", durable=False) as postgres:
        dsn = await migrated_dsn(postgres.admin, "webhook_gateway")
        print(f"filling {rows:,} deliveries over {DAYS} days, baseline {plain_rows:,}")
        await prepare(dsn, rows, plain_rows)
        print(f"\nledger, {rows:,} rows, {DAYS} daily partitions")
        found = await measure(dsn, rows, calls)
        for name, times in found.items():
            print("  " + line(name, times))
        print(f"\nbaseline, {plain_rows:,} rows, one table without the entity and document indexes")
        connection = await asyncpg.connect(dsn)
        plain = await baseline(connection, plain_rows, max(3, calls // 20))
        await connection.close()
        for name, times in plain.items():
            print("  " + line(name, times))
        ratio = statistics.median(plain["search by entity"]) / statistics.median(found["search by entity"])
        print(
            f"\nsearch by entity: baseline / ledger = {ratio:.1f}; the baseline has {plain_rows / rows:.0%} of the rows"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--baseline-rows", type=int, help="default: as many as rows, at most 2,000,000")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the data lies meanwhile; default: a temporary folder")
    given = parser.parse_args()
    plain_rows = given.baseline_rows or min(given.rows, 2_000_000)
    with tempfile.TemporaryDirectory(prefix="patchbay-bench-", dir=given.folder) as folder:
        asyncio.run(run(given.rows, plain_rows, given.calls, Path(folder)))


if __name__ == "__main__":
    main()
