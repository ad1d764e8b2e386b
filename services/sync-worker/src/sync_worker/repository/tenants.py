"""SQL for the franchise tree of tenants."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from chassis.db.connection import Connection
from sync_worker.models import Tenant

# One lock for the whole tree: two moves at once could make a cycle that neither of them sees.
_TREE_LOCK: Final = 7_241_003


async def lock_tree(connection: Connection, *, shared: bool = False) -> None:
    """Hold the tree still until the transaction ends; `shared` for those that only rely on it."""
    kind = "_shared" if shared else ""
    await connection.execute(f"SELECT pg_advisory_xact_lock{kind}($1)", _TREE_LOCK)


async def ensure(connection: Connection, slug: str) -> None:
    """Make an unknown tenant a root of the tree, named by its slug."""
    await connection.execute(
        "INSERT INTO tenants (slug, name, version) VALUES ($1, $1, 1) ON CONFLICT DO NOTHING", slug
    )


async def get(connection: Connection, slug: str) -> Tenant | None:
    """Return one tenant."""
    row = await connection.fetchrow("SELECT * FROM tenants WHERE slug = $1", slug)
    return Tenant(**dict(row)) if row else None


async def save(connection: Connection, tenant: Tenant) -> None:
    """Write a tenant as it is now."""
    await connection.execute(
        """INSERT INTO tenants (slug, parent, name, limits, version) VALUES ($1, $2, $3, $4, $5)
           ON CONFLICT (slug) DO UPDATE SET parent = excluded.parent, name = excluded.name, limits = excluded.limits,
                                            version = excluded.version""",
        *(tenant.slug, tenant.parent, tenant.name, tenant.limits, tenant.version),
    )


async def search(
    connection: Connection, filters: dict[str, Any], after: Sequence[Any] | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` tenants by slug; `filters` may hold parent."""
    conditions = [f"{name} = ${place}" for place, name in enumerate(filters, start=3)]
    where = " AND ".join(["($1::text IS NULL OR slug > $1)", *conditions])
    rows = await connection.fetch(
        f"SELECT * FROM tenants WHERE {where} ORDER BY slug LIMIT $2",  # noqa: S608 (names, never values)
        after[0] if after else None,
        limit,
        *filters.values(),
    )
    return [dict(row) for row in rows]


async def path(connection: Connection, slug: str) -> list[str]:
    """Return the tenants from the root down to `slug`; empty when it is unknown."""
    rows = await connection.fetch(
        """WITH RECURSIVE up AS (
               SELECT slug, parent, 0 AS level FROM tenants WHERE slug = $1
               UNION ALL SELECT t.slug, t.parent, up.level + 1 FROM tenants t JOIN up ON t.slug = up.parent)
           SELECT slug FROM up ORDER BY level DESC""",
        slug,
    )
    return [row["slug"] for row in rows]


async def subtree(connection: Connection, slug: str) -> dict[str, int]:
    """Return `slug` and everything below it with the level of each, 1 for `slug` itself; empty when it is unknown."""
    rows = await connection.fetch(
        """WITH RECURSIVE down AS (
               SELECT slug, 1 AS level FROM tenants WHERE slug = $1
               UNION ALL SELECT t.slug, down.level + 1 FROM tenants t JOIN down ON t.parent = down.slug)
           SELECT slug, level FROM down""",
        slug,
    )
    return {row["slug"]: row["level"] for row in rows}


async def routed_from_elsewhere(
    connection: Connection, targets: Collection[str], owners: Collection[str]
) -> str | None:
    """Return an endpoint that routes deliveries to one of `targets` and whose tenant is none of `owners`, or None."""
    found: str | None = await connection.fetchval(
        """SELECT e.id FROM endpoints e JOIN connections c ON c.id = e.connection
           WHERE c.tenant <> ALL($2) AND EXISTS (
               SELECT 1 FROM jsonb_each_text(e.settings -> 'tenant_routes' -> 'accounts') AS route
               WHERE route.value = ANY($1))
           ORDER BY e.id LIMIT 1""",
        list(targets),
        list(owners),
    )
    return found
