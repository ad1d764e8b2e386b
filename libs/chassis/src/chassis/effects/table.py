"""The table of effects and all SQL on it. A service has it in its models by `add_effects_table`.

Must never change a row that somebody changed since it was read: `version` and the lock decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB

from chassis.db.connection import Connection
from chassis.db.schema import INSTANT
from chassis.effects.states import Effect, Settled
from contracts.topics import Lane

_COLUMNS: Final = tuple(field.name for field in fields(Effect))
_NAMES: Final = ", ".join(_COLUMNS)
_CHANGES: Final = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "key")
_SUMMARY: Final = """key, saga_id, step, direction, tenant, lane, operation, connection, provider, state, code, detail,
    provider_ref, attempt, answered, calls, origin, deadline, sent_at, parked_until, lease_until, updated_at"""


# How a column comes in a JSON document, where it is not a text; bytes come in hexadecimal digits.
_IN_JSON: Final = {
    **dict.fromkeys(("saga_id", "connection"), "uuid"),
    **dict.fromkeys(("command", "result"), "jsonb"),
    **dict.fromkeys(("attempt", "answered", "calls"), "integer"),
    **dict.fromkeys(("deadline", "lease_until", "sent_at", "parked_until", "updated_at"), "timestamptz"),
    "version": "bigint",
}
# The planner takes a document for a hundred rows, and reads a whole table of a few thousand rather than look them up.
_BY_INDEX: Final = "effects.key = ANY (ARRAY(SELECT key FROM wanted))"
_TYPES: Final = ", ".join(f"{name} {_IN_JSON.get(name, 'text')}" for name in _COLUMNS)
_READ: Final = ", ".join("decode(personal, 'hex')" if name == "personal" else name for name in _COLUMNS)


def add_effects_table(metadata: sa.MetaData) -> None:
    """Add the table to a service's metadata."""
    sa.Table(
        "effects",
        metadata,
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("saga_id", sa.Uuid, nullable=False),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False, server_default="do"),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("lane", sa.Text, nullable=False, server_default="standard"),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("command", JSONB, nullable=False),
        sa.Column("personal", BYTEA),
        sa.Column("request_hash", sa.Text, nullable=False),
        sa.Column("deadline", INSTANT),
        sa.Column("connection", sa.Uuid),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("provider_ref", sa.Text, nullable=False),
        sa.Column("result", JSONB, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("answered", sa.Integer, nullable=False),
        sa.Column("calls", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("trace", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False, server_default="saga"),
        sa.Column("lease_until", INSTANT),
        sa.Column("sent_at", INSTANT),
        sa.Column("parked_until", INSTANT),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("state IN ('reserved', 'sent', 'applied', 'refused', 'unknown', 'voided')", name="state"),
        sa.Index("ix_effects_open", "lease_until", postgresql_where=sa.text("attempt > answered")),
        sa.Index("ix_effects_state_updated_at", "state", "updated_at", "key"),
        sa.Index(None, "saga_id"),
    )


def _effect(row: Any) -> Effect:
    known = dict(row)
    return Effect(**(known | {"lane": Lane(known["lane"])}))


async def lock(connection: Connection, keys: Iterable[str]) -> dict[str, Effect]:
    """Return the effects of `keys`, locked until the transaction ends; waits for others' transactions on them.

    A key without a row is locked too: two first commands (a zombie's, an undo beside its do) must not both be first.
    """
    ordered = sorted(set(keys))
    # One JSON document instead of an array, here and below: asyncpg examines each element of an array in Python.
    await connection.fetchval(
        """SELECT count(pg_advisory_xact_lock(hashtextextended(key, 0)))
           FROM (SELECT key FROM jsonb_array_elements_text($1::jsonb) AS key ORDER BY key) AS ordered""",
        ordered,
    )
    rows = await connection.fetch(
        f"""SELECT {_NAMES} FROM effects WHERE key = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)))
            ORDER BY key FOR UPDATE""",  # noqa: S608
        ordered,
    )
    return {row["key"]: _effect(row) for row in rows}


async def hold(connection: Connection, keys: Iterable[str]) -> None:
    """Lock the rows of `keys` in order, before one transaction changes some of them in one way and some in another."""
    await connection.execute(
        """SELECT FROM effects WHERE key = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)))
           ORDER BY key FOR UPDATE""",
        list(keys),
    )


async def get(connection: Connection, key: str) -> Effect | None:
    """Return an effect as it is now, without a lock."""
    row = await connection.fetchrow(f"SELECT {_NAMES} FROM effects WHERE key = $1", key)  # noqa: S608
    return _effect(row) if row else None


async def save(connection: Connection, effects: Sequence[Effect]) -> None:
    """Write effects that are locked, as they are now, in one statement."""
    if not effects:
        return
    await connection.execute(
        f"""INSERT INTO effects ({_NAMES})
            SELECT {_READ} FROM jsonb_to_recordset($1::jsonb) AS given ({_TYPES})
            ON CONFLICT (key) DO UPDATE SET {_CHANGES}""",  # noqa: S608 (names, never values)
        [_document(effect) for effect in effects],
    )


def _document(effect: Effect) -> dict[str, Any]:
    document = {name: getattr(effect, name) for name in _COLUMNS}
    if effect.personal is not None:
        document["personal"] = effect.personal.hex()
    return document


async def mark(connection: Connection, marks: Sequence[tuple[str, int, bool, datetime]], now: datetime) -> set[str]:
    """Take effects over for a call, in one statement; return the keys of those that were free.

    A mark is (key, version read, whether it sends, lease until). Sending makes the effect SENT; the first sending of a
    key counts for the provider's lifetime of it, so `sent_at` is renewed only by one that was RESERVED.
    """
    rows = await connection.fetch(
        f"""WITH wanted AS (SELECT * FROM jsonb_to_recordset($1::jsonb)
                               AS wanted (key text, version bigint, sends bool, lease timestamptz)),
                free AS (SELECT effects.key FROM effects JOIN wanted USING (key, version)
                         WHERE {_BY_INDEX} AND attempt > answered AND (lease_until IS NULL OR lease_until <= $2)
                         ORDER BY effects.key FOR UPDATE OF effects)
           UPDATE effects SET lease_until = lease, version = effects.version + 1, updated_at = $2,
               sent_at = CASE WHEN sends AND state = 'reserved' THEN $2 ELSE sent_at END,
               state = CASE WHEN sends THEN 'sent' WHEN state = 'sent' THEN 'unknown' ELSE state END,
               calls = calls + sends::int, parked_until = NULL
           FROM free JOIN wanted USING (key) WHERE effects.key = free.key AND {_BY_INDEX}
           RETURNING effects.key""",  # noqa: S608 (names, never values)
        [{"key": key, "version": version, "sends": sends, "lease": lease} for key, version, sends, lease in marks],
        now,
    )
    return {row["key"] for row in rows}


async def settle(
    connection: Connection, settlements: Sequence[tuple[str, int, Settled]], now: datetime
) -> dict[str, Effect]:
    """Write what calls proved, in one statement; return the effects whose version was still the one given.

    An effect with an answer has answered its newest attempt by it; without one its next call follows.
    """
    rows = await connection.fetch(
        f"""WITH wanted AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS wanted (key text, version bigint, state text,
                                code text, detail text, provider_ref text, result jsonb, answers bool, final bool,
                                parked_s float)),
                 free AS (SELECT effects.key FROM effects JOIN wanted USING (key, version) WHERE {_BY_INDEX}
                          ORDER BY effects.key FOR UPDATE OF effects)
            UPDATE effects SET state = wanted.state, lease_until = NULL, version = effects.version + 1,
                updated_at = $2::timestamptz,
                answered = CASE WHEN answers THEN attempt ELSE answered END,
                code = CASE WHEN answers THEN wanted.code ELSE effects.code END,
                detail = CASE WHEN answers THEN wanted.detail ELSE effects.detail END,
                provider_ref = CASE WHEN final THEN wanted.provider_ref ELSE effects.provider_ref END,
                result = CASE WHEN final THEN wanted.result ELSE effects.result END,
                parked_until = $2::timestamptz + make_interval(secs => parked_s)
            FROM free JOIN wanted USING (key) WHERE effects.key = free.key AND {_BY_INDEX}
            RETURNING {", ".join(f"effects.{name}" for name in _COLUMNS)}""",  # noqa: S608 (names, never values)
        [_settlement(*one) for one in settlements],
        now,
    )
    return {row["key"]: _effect(row) for row in rows}


def _settlement(key: str, version: int, settled: Settled) -> dict[str, Any]:
    verdict = settled.verdict
    return {
        "key": key,
        "version": version,
        "state": settled.state,
        "code": verdict.code if verdict else "",
        "detail": verdict.detail if verdict else "",
        "provider_ref": settled.provider_ref,
        "result": dict(settled.result),
        "answers": verdict is not None,
        "final": settled.state in ("applied", "refused"),
        "parked_s": verdict.retry_after_s if verdict and verdict.status == "parked" else None,
    }


async def unanswered(connection: Connection, now: datetime, limit: int) -> list[Effect]:
    """Return effects that nobody works on though an answer is due: a worker died, or a wake-up was lost."""
    rows = await connection.fetch(
        f"""SELECT {_NAMES} FROM effects
            WHERE attempt > answered AND (lease_until IS NULL OR lease_until <= $1)
            ORDER BY updated_at LIMIT $2""",  # noqa: S608
        now,
        limit,
    )
    return [_effect(row) for row in rows]


async def ask_again(connection: Connection, origins: Sequence[str], now: datetime, limit: int) -> list[Effect]:
    """Ask for another attempt of effects that nobody else asks for, after waits that double up to five minutes.

    For effects of origins without an orchestrator behind them. What needs a person, or is over its deadline, rests.
    """
    rows = await connection.fetch(
        f"""WITH due AS (SELECT key FROM effects WHERE origin = ANY($1) AND state IN ('reserved', 'unknown')
                             AND attempt = answered AND code NOT IN ('needs_settlement', 'expired')
                             AND updated_at < $2::timestamptz
                                 - least(make_interval(secs => 2 ^ least(attempt, 9)), '5 min')
                         ORDER BY updated_at LIMIT $3 FOR UPDATE SKIP LOCKED)
            UPDATE effects SET attempt = attempt + 1 FROM due WHERE effects.key = due.key
            RETURNING {", ".join(f"effects.{name}" for name in _COLUMNS)}""",  # noqa: S608 (names, never values)
        list(origins),
        now,
        limit,
    )
    return [_effect(row) for row in rows]


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` effects by key, those behind `after`; `filters` are columns with their values."""
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=3)]
    where = " AND ".join(["($1::text IS NULL OR key > $1)", *conditions])
    rows = await connection.fetch(
        f"SELECT {_SUMMARY} FROM effects WHERE {where} ORDER BY key LIMIT $2",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]


async def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """Return how many effects are open, by (state, lane): for gauges, never on a hot path."""
    rows = await connection.fetch(
        """SELECT state, lane, count(*) AS count FROM effects WHERE state IN ('reserved', 'sent', 'unknown')
           GROUP BY state, lane"""
    )
    return {(cast("str", row["state"]), cast("str", row["lane"])): row["count"] for row in rows}
