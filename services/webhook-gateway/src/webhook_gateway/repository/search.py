"""The search over `deliveries`: newest first, in keyset pages, fast on the last page as on the first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from chassis.db.connection import Connection
from chassis.db.database import Database
from chassis.http.problems import Problem, invalid
from webhook_gateway.repository.deliveries import EVERYTHING, SUMMARY
from webhook_gateway.selection import DeliveryFilter

# A JSON path may ask for more than an index can answer; then the caller must narrow it, not wait.
PATH_TIMEOUT_MS: Final = 5_000
# The first look goes one day back, each further one twice as far: a frequent value is found in the newest partition, a
# rare one in eight looks over 255 days.
_FIRST_SLICE: Final = timedelta(days=1)
# Rows of an export are read in chunks of this many: with bodies of 960 KiB that bounds the memory to 30 MiB.
EXPORT_ROWS: Final = 32
_SYNTAX: Final = "42601"
_TIMEOUT: Final = "57014"
_BAD_VALUE: Final = "22"

After = Sequence[Any] | None


async def search(
    database: Database, wanted: DeliveryFilter, after: After, limit: int, *, bodies: bool = False
) -> list[dict[str, Any]]:
    """Return up to `limit` deliveries, newest first, that match and stand behind `after` (received_at, id, item).

    Raises `Problem` 422 naming `path` when that is no JSON path, or takes longer than `PATH_TIMEOUT_MS`.
    """
    columns = EVERYTHING if bodies else SUMMARY
    if wanted.path is None:
        async with database.connection() as connection:
            return await _page(connection, wanted, after, limit, columns)
    try:
        async with database.unit_of_work() as uow:
            await uow.connection.execute(f"SET LOCAL statement_timeout = {PATH_TIMEOUT_MS}")
            return await _by_path(uow.connection, wanted, after, limit, columns)
    except Exception as error:
        problem = path_problem(error)
        if problem is None:
            raise
        raise problem from error


async def every(database: Database, wanted: DeliveryFilter) -> AsyncIterator[dict[str, Any]]:
    """Yield every delivery that matches, with its body, newest first; holds no transaction between chunks."""
    after: After = None
    while True:
        rows = await search(database, wanted, after, EXPORT_ROWS, bodies=True)
        for row in rows:
            yield row
        if len(rows) < EXPORT_ROWS:
            return
        last = rows[-1]
        after = (last["received_at"].isoformat(), str(last["id"]), last["item"])


def path_problem(error: Exception) -> Problem | None:
    """Return the caller's problem when a statement failed because of its JSON path."""
    state = str(getattr(error, "sqlstate", None) or "")
    if state == _TIMEOUT:
        return invalid("path", "takes too long; narrow the search by entity, endpoint or time", "path_too_slow")
    if state == _SYNTAX or state.startswith(_BAD_VALUE):
        return invalid("path", "is no JSON path of PostgreSQL", "bad_path")
    return None


async def _page(
    connection: Connection, wanted: DeliveryFilter, after: After, limit: int, columns: str
) -> list[dict[str, Any]]:
    values: list[Any] = []
    conditions = [*wanted.conditions(values), *_behind(after, values)]
    values.append(limit)
    rows = await connection.fetch(
        f"""SELECT {columns} FROM deliveries WHERE {" AND ".join(conditions) or "true"}
            ORDER BY received_at DESC, id DESC, item DESC LIMIT ${len(values)}""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]


async def _by_path(
    connection: Connection, wanted: DeliveryFilter, after: After, limit: int, columns: str
) -> list[dict[str, Any]]:
    """Search backwards in growing slices of time.

    In one go the planner, which knows nothing about a path's selectivity, would read every body newest first. A slice
    is materialised through the path's own index, then sorted.
    """
    oldest, newest = await _span(connection, wanted, after)
    found: list[dict[str, Any]] = []
    width = _FIRST_SLICE
    while newest is not None and oldest is not None and newest > oldest and len(found) < limit:
        start = max(oldest, newest - width)
        values: list[Any] = []
        conditions = [*wanted.conditions(values), *_behind(after, values)]
        values += [start, newest, limit - len(found)]
        places = len(values)
        rows = await connection.fetch(
            f"""WITH hits AS MATERIALIZED (
                    SELECT id, item, received_at FROM deliveries
                    WHERE {" AND ".join(conditions)} AND received_at >= ${places - 2} AND received_at < ${places - 1}),
                newest AS (SELECT * FROM hits ORDER BY received_at DESC, id DESC, item DESC LIMIT ${places})
                SELECT {columns} FROM deliveries JOIN newest USING (id, item, received_at)
                ORDER BY received_at DESC, id DESC, item DESC""",  # noqa: S608 (names, never values)
            *values,
        )
        found += [dict(row) for row in rows]
        newest, width = start, width * 2
    return found


async def _span(
    connection: Connection, wanted: DeliveryFilter, after: After
) -> tuple[datetime | None, datetime | None]:
    """Return the half-open span of time that has to be searched; (None, None) for an empty ledger."""
    row = await connection.fetchrow("SELECT min(received_at) AS oldest, max(received_at) AS newest FROM deliveries")
    if row is None or row["newest"] is None:
        return None, None
    oldest, newest = row["oldest"], row["newest"] + timedelta(microseconds=1)
    if after is not None:
        newest = min(newest, _instant(after[0]) + timedelta(microseconds=1))
    if wanted.received_to is not None:
        newest = min(newest, wanted.received_to)
    if wanted.received_from is not None:
        oldest = max(oldest, wanted.received_from)
    return oldest, newest


def _behind(after: After, values: list[Any]) -> list[str]:
    if after is None:
        return []
    values += after
    first = len(values) - 2
    place = f"(${first}::text::timestamptz, ${first + 1}::text::uuid, ${first + 2}::smallint)"
    # The first condition says nothing new, but a row comparison alone excludes no partition.
    return [f"received_at <= ${first}::text::timestamptz", f"(received_at, id, item) < {place}"]


def _instant(text: Any) -> datetime:
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        raise invalid("after", "must be the `next` of a previous page") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
