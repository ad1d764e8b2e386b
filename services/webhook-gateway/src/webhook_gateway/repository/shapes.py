"""SQL of `shapes`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from chassis.db.connection import Connection
from webhook_gateway.shapes import Path, ShapeModel


class ShapeKey(NamedTuple):
    """Whose shape it is."""

    provider: str
    event_type: str
    api_version: str


async def lock(connection: Connection, key: ShapeKey) -> ShapeModel:
    """Return a shape, empty when it is new; nobody else changes it until the transaction ends."""
    await connection.execute(
        """INSERT INTO shapes (provider, event_type, api_version, state, bodies, paths, "full", updated_at)
           VALUES ($1, $2, $3, 'learning', 0, '{}', false, now()) ON CONFLICT DO NOTHING""",
        *key,
    )
    row = await connection.fetchrow(
        """SELECT state, bodies, paths, "full" FROM shapes
           WHERE provider = $1 AND event_type = $2 AND api_version = $3 FOR UPDATE""",
        *key,
    )
    if row is None:
        return ShapeModel()
    paths = {path: Path.of_json(raw) for path, raw in row["paths"].items()}
    return ShapeModel(row["bodies"], row["state"] == "known", row["full"], paths)


async def save(connection: Connection, key: ShapeKey, shape: ShapeModel, at: datetime) -> None:
    """Store a shape that was locked."""
    await connection.execute(
        """UPDATE shapes SET state = $4, bodies = $5, paths = $6, "full" = $7, updated_at = $8
           WHERE provider = $1 AND event_type = $2 AND api_version = $3""",
        *key,
        "known" if shape.known else "learning",
        shape.bodies,
        {path: known.to_json() for path, known in shape.paths.items()},
        shape.full,
        at,
    )


async def of_type(connection: Connection, provider: str, event_type: str) -> list[dict[str, Any]]:
    """Return the shapes of an event type, one per API version."""
    rows = await connection.fetch(
        """SELECT provider, event_type, api_version, state, bodies, paths, "full", updated_at FROM shapes
           WHERE provider = $1 AND event_type = $2 ORDER BY api_version""",
        provider,
        event_type,
    )
    return [dict(row) for row in rows]
