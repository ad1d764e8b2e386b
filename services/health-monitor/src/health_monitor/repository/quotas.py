"""Quotas: the policy that was published last for a bucket, and the limit that an operator set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from chassis.db.connection import Connection
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.modes import Mode, keyed


class BucketKey(NamedTuple):
    """Which quota it is: a kind of bucket on the path of a provider's calls (`QuotaPolicy.bucket`) in one mode."""

    provider: str
    bucket: str
    mode: Mode = "live"


@dataclass(frozen=True, slots=True)
class StoredQuota:
    """One bucket; `policy` is absent before the first one, `configured` while no operator set a limit.

    `at_end` is the greatest forecast that was kept last, `worst` the owner that it is about.
    """

    policy: QuotaPolicy | None = None
    configured: tuple[QuotaWindow, ...] | None = None
    at_end: float = 0.0
    worst: str = ""

    def set(self, windows: tuple[QuotaWindow, ...] | None) -> StoredQuota:
        """Return the bucket with an operator's limit, or with None without one."""
        return replace(self, configured=windows)


async def lock(connection: Connection, key: BucketKey) -> StoredQuota:
    """Return a bucket, locked until the transaction ends; a bucket nobody knows is empty and locked by its name."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", keyed("quota", *key[:2], mode=key.mode)
    )
    row = await connection.fetchrow(
        """SELECT policy, configured, used_ratio, worst_owner FROM quotas
           WHERE provider = $1 AND bucket = $2 AND mode = $3""",
        *key,
    )
    if row is None:
        return StoredQuota()
    configured = row["configured"]
    return StoredQuota(
        QuotaPolicy.model_validate(row["policy"]),
        None if configured is None else tuple(QuotaWindow.model_validate(one) for one in configured),
        row["used_ratio"],
        row["worst_owner"],
    )


async def save(
    connection: Connection,
    policy: QuotaPolicy,
    configured: tuple[QuotaWindow, ...] | None,
    forecast: tuple[float, str],
) -> None:
    """Keep a policy that is being published, and the greatest forecast with its owner."""
    await connection.execute(
        """INSERT INTO quotas (provider, bucket, mode, version, policy, configured, used_ratio, worst_owner, told, at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
           ON CONFLICT (provider, bucket, mode) DO UPDATE SET version = excluded.version, policy = excluded.policy,
               configured = excluded.configured, used_ratio = excluded.used_ratio, worst_owner = excluded.worst_owner,
               told = excluded.told, at = excluded.at""",
        policy.provider,
        policy.bucket,
        policy.mode,
        policy.version,
        policy.model_dump(mode="json"),
        None if configured is None else [window.model_dump(mode="json") for window in configured],
        *forecast,
        policy.reason,
        policy.decided_at,
    )


async def note(connection: Connection, forecasts: Mapping[BucketKey, tuple[float, str]]) -> None:
    """Keep the greatest forecast of buckets, with its owner; no policy changes by it."""
    await connection.executemany(
        "UPDATE quotas SET used_ratio = $4, worst_owner = $5 WHERE provider = $1 AND bucket = $2 AND mode = $3",
        [(*key, *forecast) for key, forecast in sorted(forecasts.items())],
    )


async def page_of(connection: Connection, after: Sequence[Any] | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` buckets by provider, bucket and mode, those behind `after`."""
    provider, bucket, mode = after or ("", "", "")
    rows = await connection.fetch(
        """SELECT provider, bucket, mode, version, policy -> 'windows' AS windows, policy -> 'trim' AS trim,
                  (SELECT count(*) FROM jsonb_object_keys(policy -> 'trims')) AS owners_trimmed,
                  policy ->> 'source' AS source, configured IS NOT NULL AS configured, used_ratio, worst_owner,
                  told AS reason, at AS decided_at
           FROM quotas WHERE (provider, bucket, mode) > ($1::text, $2::text, $3::text)
           ORDER BY provider, bucket, mode LIMIT $4""",
        str(provider),
        str(bucket),
        str(mode),
        limit,
    )
    return [dict(row) for row in rows]


async def known(connection: Connection) -> dict[BucketKey, datetime]:
    """Return the buckets that have a policy, with its time."""
    rows = await connection.fetch("SELECT provider, bucket, mode, at FROM quotas")
    return {BucketKey(row["provider"], row["bucket"], row["mode"]): row["at"] for row in rows}
