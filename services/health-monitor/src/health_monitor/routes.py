"""HTTP API of the health monitor: the state of every route, with its reasons and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.connection import Connection
from chassis.db.database import Database
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import json_response, not_found, query_of
from health_monitor import repository
from health_monitor.statistics import summary

WINDOWS: Final = {"5m": timedelta(minutes=5), "1h": timedelta(hours=1)}
SHOWN_TRANSITIONS: Final = 50


def routes(database: Database, tokens: TokenVerifier, clock: Clock) -> list[BaseRoute]:
    """Return the routes of the API."""

    @requires(tokens, Role.VIEWER)
    async def overview(request: Request) -> Response:
        query = query_of(request, PageQuery)
        async with database.connection() as connection:
            found = await repository.list_routes(connection, query.cursor(2), query.limit + 1)
            shown = await _described(connection, found, clock)
        return json_response(page(shown, query.limit, ("capability", "provider")))

    @requires(tokens, Role.VIEWER)
    async def show(request: Request) -> Response:
        key = request.path_params["provider"], request.path_params["capability"]
        async with database.connection() as connection:
            route = await repository.get_route(connection, key)
            if route is None:
                raise not_found("route")
            described = (await _described(connection, [route], clock))[0]
            described["transitions"] = await repository.transitions_of(connection, key, SHOWN_TRANSITIONS)
        return json_response(described)

    return [Route("/v1/health", overview), Route("/v1/health/{capability}/{provider}", show)]


async def _described(connection: Connection, found: Sequence[dict[str, Any]], clock: Clock) -> list[dict[str, Any]]:
    """Return routes as the API shows them; a window is made of whole minutes, the running one included."""
    keys = [(route["provider"], route["capability"]) for route in found]
    minute = clock.now().replace(second=0, microsecond=0)
    windows = {name: await repository.totals(connection, keys, minute - length) for name, length in WINDOWS.items()}
    return [
        {
            "provider": route["provider"],
            "capability": route["capability"],
            "state": route["state"],
            "share": route["share"],
            "since": route["decided_at"],
            "reason": route["reason"],
            "epoch": [route["epoch_generation"], route["epoch_counter"]],
            "windows": {name: summary(totals.get(key)) for name, totals in windows.items()},
        }
        for route, key in zip(found, keys, strict=True)
    ]
