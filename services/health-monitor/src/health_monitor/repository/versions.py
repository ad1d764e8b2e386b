"""The API versions that answers named, and what was published about them last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from chassis.db.connection import Connection
from contracts.events.health import ApiVersionsChanged
from health_monitor.versions import Notice, VersionKey


async def add(connection: Connection, seen: Mapping[VersionKey, Notice], now: datetime) -> None:
    """Note the versions that answers named. A notice stays until another one comes: not every answer repeats it."""
    await connection.executemany(
        """INSERT INTO api_versions (provider, version, deprecation, sunset, first_seen, last_seen)
           VALUES ($1, $2, $3, $4, $5, $5)
           ON CONFLICT (provider, version) DO UPDATE SET
               deprecation = coalesce(nullif(excluded.deprecation, ''), api_versions.deprecation),
               sunset = coalesce(nullif(excluded.sunset, ''), api_versions.sunset),
               last_seen = greatest(api_versions.last_seen, excluded.last_seen)""",
        [(*key, notice.deprecation, notice.sunset, now) for key, notice in sorted(seen.items())],
    )


async def page_of(connection: Connection, after: Sequence[Any] | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` versions by provider and version, those behind `after`."""
    provider, version = after or ("", "")
    rows = await connection.fetch(
        """SELECT * FROM api_versions WHERE (provider, version) > ($1::text, $2::text) OR ($1 = '' AND $2 = '')
           ORDER BY provider, version LIMIT $3""",
        str(provider),
        str(version),
        limit,
    )
    return [dict(row) for row in rows]


async def providers(connection: Connection) -> list[str]:
    """Return the providers that something is known or was published about."""
    rows = await connection.fetch(
        "SELECT provider FROM api_versions UNION SELECT provider FROM api_version_records ORDER BY provider"
    )
    return [row["provider"] for row in rows]


async def of_provider(connection: Connection, provider: str) -> list[dict[str, Any]]:
    """Return all versions of a provider."""
    return [dict(row) for row in await connection.fetch("SELECT * FROM api_versions WHERE provider = $1", provider)]


async def lock(connection: Connection, provider: str) -> ApiVersionsChanged | None:
    """Return what was published about a provider last, which nobody else publishes until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"api versions {provider}")
    found = await connection.fetchval("SELECT record FROM api_version_records WHERE provider = $1", provider)
    return None if found is None else ApiVersionsChanged.model_validate(found)


async def save(connection: Connection, told: ApiVersionsChanged) -> None:
    """Keep what is being published."""
    await connection.execute(
        """INSERT INTO api_version_records (provider, record, at) VALUES ($1, $2, $3)
           ON CONFLICT (provider) DO UPDATE SET record = excluded.record, at = excluded.at""",
        told.provider,
        told.model_dump(mode="json"),
        told.decided_at,
    )


async def forget(connection: Connection, before: datetime) -> None:
    """Delete versions that nobody used since an instant."""
    await connection.execute("DELETE FROM api_versions WHERE last_seen < $1", before)
