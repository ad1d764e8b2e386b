"""SQL of `effects`, the trail of what deliveries caused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from chassis.db.connection import Connection
from webhook_gateway.models import Effect

_COLUMNS: Final = (
    *("topic", "partition", "offset", "at", "trace_id", "cause", "tenant", "service", "kind", "ref", "status"),
)
_NAMES: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
_PLACES: Final = ", ".join(f"${place}" for place in range(1, len(_COLUMNS) + 1))


async def insert(connection: Connection, effects: Sequence[Effect]) -> None:
    """Store effects; one that is there already stays as it is."""
    await connection.executemany(
        f"INSERT INTO effects ({_NAMES}) VALUES ({_PLACES}) ON CONFLICT DO NOTHING",  # noqa: S608 (names of ours)
        [[getattr(effect, name) for name in _COLUMNS] for effect in effects],
    )


async def effects_of(
    connection: Connection, traces: Sequence[str], causes: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` effects in these traces, or caused by these events, oldest first."""
    rows = await connection.fetch(
        """SELECT at, service, kind, ref, status, trace_id, cause FROM effects
           WHERE (trace_id <> '' AND trace_id = ANY($1::text[])) OR (cause <> '' AND cause = ANY($2::text[]))
           ORDER BY at, topic, partition, "offset" LIMIT $3""",
        list(traces),
        list(causes),
        limit,
    )
    return [dict(row) for row in rows]
