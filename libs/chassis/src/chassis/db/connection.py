"""What every connection to Postgres has in common: session limits, JSON, and how its errors are read."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import asyncpg
import orjson

# Both far below the consumer's 120 s poll interval, so that a stuck statement never costs a rebalance.
STATEMENT_TIMEOUT_MS: Final = 15_000
LOCK_TIMEOUT_MS: Final = 5_000
# Waiting longer than this for a connection means that the pool is the bottleneck, and that should be heard.
ACQUIRE_TIMEOUT_S: Final = 5.0

# asyncpg's generics exist for type checkers only, so the alias is a string at run time.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"
# SQLSTATE classes that say "the database is not available", not "this statement is wrong": connection exceptions,
# insufficient resources, operator intervention, system error. Beside them: a read-only server after a failover, and a
# database that is closed to new connections (ALTER DATABASE … ALLOW_CONNECTIONS false).
_UNAVAILABLE_CLASSES: Final = ("08", "53", "57", "58")
_UNAVAILABLE: Final = ("25006", "55000")
# Serialization failure, deadlock, and a cached plan outlived by a migration (stack.md §6): the same work may succeed.
_RETRYABLE: Final = ("40001", "40P01")


def is_unavailable(error: BaseException) -> bool:
    """Tell whether an exception means that the database cannot be reached or used right now."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(error.sqlstate or "")
        return state.startswith(_UNAVAILABLE_CLASSES) or state in _UNAVAILABLE
    # asyncpg reports a statement on a connection that the server is just terminating as an internal error of its own.
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def is_bad_value(error: BaseException) -> bool:
    """Tell whether the server or the driver refused a value as such (SQLSTATE class 22): a caller's, not a fault."""
    if isinstance(error, asyncpg.DataError):
        return True
    return isinstance(error, asyncpg.PostgresError) and str(error.sqlstate or "").startswith("22")


def is_retryable(error: BaseException) -> bool:
    """Tell whether running the same unit of work again may succeed at once."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return True
    return isinstance(error, asyncpg.PostgresError) and error.sqlstate in _RETRYABLE


def server_settings(service: str) -> dict[str, str]:
    """Return the session settings of every connection."""
    return {
        "application_name": service,
        "timezone": "UTC",
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "lock_timeout": str(LOCK_TIMEOUT_MS),
    }


async def init_connection(connection: Connection) -> None:
    """Make a new connection read and write jsonb as Python values."""
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=_json_encode, decoder=orjson.loads, format="text"
    )


def _json_encode(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
