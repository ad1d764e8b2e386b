"""SQL of `dead_letters`: one row per record and consumer that gave it up, however often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from chassis.db.connection import Connection
from webhook_gateway.models import DeadLetter

_COLUMNS: Final = tuple(DeadLetter.model_fields)
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
SUMMARY: Final = """id, origin_topic, origin_partition, origin_offset, service, consumer, tenant, message_id,
    message_type, trace_id, error_code, error, attempts, state, first_seen, last_seen, settled_at, settled_by, note"""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a dead letter: replayed or discarded, by whom, and why."""

    state: str
    by: str
    note: str
    at: datetime


async def add(connection: Connection, letter: DeadLetter) -> bool:
    """Store a dead letter, or open the row of the same record and consumer again; returns whether that was news.

    A record that was read before (its offset commit was lost) is none.
    """
    if letter.message_id:
        known = await connection.fetchrow(
            """SELECT id, topic, partition, "offset" FROM dead_letters
               WHERE message_id = $1 AND consumer = $2 AND origin_topic = $3 FOR UPDATE""",
            letter.message_id,
            letter.consumer,
            letter.origin_topic,
        )
        if known is not None:
            same_log = (known["topic"], known["partition"]) == (letter.topic, letter.partition)
            if same_log and known["offset"] >= letter.offset:
                return False
            return await _again(connection, known["id"], letter)
    places = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))
    row = await connection.fetchrow(
        f"""INSERT INTO dead_letters ({_NAMES}) VALUES ({places})
            ON CONFLICT (topic, partition, "offset") DO NOTHING RETURNING id""",  # noqa: S608 (names of ours)
        *(getattr(letter, name) for name in _COLUMNS),
    )
    return row is not None


async def _again(connection: Connection, known: UUID, letter: DeadLetter) -> bool:
    names = ("topic", "partition", "offset", "origin_partition", "origin_offset", "error_code", "error", "key", "value")
    changed = (*names, "headers", "last_seen")
    updates = ", ".join(f'"{name}" = ${place}' for place, name in enumerate(changed, start=2))
    await connection.execute(
        f"""UPDATE dead_letters SET {updates}, attempts = attempts + 1, state = 'open', settled_at = NULL,
                settled_by = '', note = '' WHERE id = $1""",  # noqa: S608 (names of ours)
        known,
        *(getattr(letter, name) for name in changed),
    )
    return True


async def one(connection: Connection, letter: UUID, *, lock: bool = False) -> DeadLetter | None:
    """Return a dead letter, locked until the transaction ends when asked for; None when it is unknown."""
    row = await connection.fetchrow(
        f"SELECT {_NAMES} FROM dead_letters WHERE id = $1 {'FOR UPDATE' if lock else ''}",  # noqa: S608
        letter,
    )
    return None if row is None else DeadLetter(**dict(row))


async def open_ones(connection: Connection, filters: Mapping[str, Any], limit: int) -> list[DeadLetter]:
    """Return and lock up to `limit` open dead letters that match, in the order of their source."""
    where, values = _where({**filters, "state": "open"})
    values.append(limit)
    rows = await connection.fetch(
        f"""SELECT {_NAMES} FROM dead_letters WHERE {where}
            ORDER BY origin_topic, origin_partition, origin_offset LIMIT ${len(values)} FOR UPDATE""",  # noqa: S608
        *values,
    )
    return [DeadLetter(**dict(row)) for row in rows]


async def settle(connection: Connection, letters: Sequence[UUID], settled: Settled) -> None:
    """Say what became of dead letters."""
    await connection.execute(
        """UPDATE dead_letters SET state = $2, settled_by = $3, note = $4, settled_at = $5
           WHERE id = ANY($1::uuid[])""",
        list(letters),
        settled.state,
        settled.by,
        settled.note,
        settled.at,
    )


async def count_open(connection: Connection, filters: Mapping[str, Any]) -> int:
    """Return how many open dead letters match."""
    where, values = _where({**filters, "state": "open"})
    return int(await connection.fetchval(f"SELECT count(*) FROM dead_letters WHERE {where}", *values))  # noqa: S608


async def open_by_service(connection: Connection) -> dict[str, int]:
    """Return how many dead letters are open, by service."""
    rows = await connection.fetch(
        "SELECT service, count(*) FILTER (WHERE state = 'open') AS open FROM dead_letters GROUP BY 1"
    )
    return {row["service"]: row["open"] for row in rows}


async def oldest_open(connection: Connection) -> datetime | None:
    """Return when the oldest open dead letter was seen first."""
    found: datetime | None = await connection.fetchval("SELECT min(first_seen) FROM dead_letters WHERE state = 'open'")
    return found


async def of_messages(connection: Connection, messages: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` dead letters of these messages, whatever became of them, oldest first."""
    rows = await connection.fetch(
        f"""SELECT {SUMMARY} FROM dead_letters WHERE message_id <> '' AND message_id = ANY($1::text[])
            ORDER BY first_seen, id LIMIT $2""",  # noqa: S608 (names of ours)
        list(messages),
        limit,
    )
    return [dict(row) for row in rows]


async def listed(
    connection: Connection, filters: Mapping[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` dead letters, newest first, that match and stand behind `after` (last_seen, id)."""
    where, values = _where(filters)
    if after is not None:
        values += after
        where += f" AND (last_seen, id) < (${len(values) - 1}::text::timestamptz, ${len(values)}::text::uuid)"
    values.append(limit)
    rows = await connection.fetch(
        f"""SELECT {SUMMARY} FROM dead_letters WHERE {where}
            ORDER BY last_seen DESC, id DESC LIMIT ${len(values)}""",  # noqa: S608 (names, never values)
        *values,
    )
    return [dict(row) for row in rows]


def _where(filters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    operators = {"seen_from": "last_seen >=", "seen_to": "last_seen <"}
    conditions = [f"{operators.get(name, f'{name} =')} ${place}" for place, name in enumerate(filters, start=1)]
    return " AND ".join(conditions) or "true", list(filters.values())
