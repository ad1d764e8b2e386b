"""What a token's claim `tenants` lets its holder see: those tenants and everything below them in the tree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from chassis.db.database import Database
from sync_worker.repository import tenants


def widen(database: Database) -> Callable[[frozenset[str]], Awaitable[Collection[str]]]:
    """Return the function that `TokenVerifier.widen` wants; one that the tree does not know stands for itself."""

    async def with_subtrees(claimed: frozenset[str]) -> Collection[str]:
        found = set(claimed)
        async with database.connection() as connection:
            for slug in claimed:
                found |= set(await tenants.subtree(connection, slug))
        return found

    return with_subtrees
