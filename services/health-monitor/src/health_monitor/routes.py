"""HTTP API of the health monitor, reading: routes with reasons and numbers, decisions explained, API versions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.connection import Connection
from chassis.db.database import Database
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import json_response, not_found, query_of
from contracts.modes import Mode
from health_monitor.declared import uncalled
from health_monitor.failover import Plan, order_of
from health_monitor.repository import counts, operators
from health_monitor.repository import routes as stored
from health_monitor.repository import versions as stored_versions
from health_monitor.statistics import RouteKey, summary
from health_monitor.versions import shown

WINDOWS: Final = {"5m": timedelta(minutes=5), "1h": timedelta(hours=1)}
SHOWN_DECISIONS: Final = 50


class RoutesQuery(PageQuery):
    """A page of the routes of one mode."""

    mode: Mode = "live"


class ModeQuery(BaseModel):
    """Which mode's route is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "live"


def routes(database: Database, tokens: TokenVerifier, clock: Clock) -> list[BaseRoute]:
    """Return the reading routes of the API."""

    @requires(tokens, Role.VIEWER)
    async def overview(request: Request) -> Response:
        query = query_of(request, RoutesQuery)
        async with database.connection() as connection:
            found = await stored.page_of(connection, query.mode, query.cursor(2), query.limit + 1)
            told = await _described(connection, found, clock)
        return json_response(page(told, query.limit, ("capability", "provider")))

    @requires(tokens, Role.VIEWER)
    async def capability(request: Request) -> Response:
        mode = query_of(request, ModeQuery).mode
        async with database.connection() as connection:
            return json_response(await _explained(connection, request.path_params["capability"], mode, clock))

    @requires(tokens, Role.VIEWER)
    async def show(request: Request) -> Response:
        mode = query_of(request, ModeQuery).mode
        key = RouteKey(request.path_params["provider"], request.path_params["capability"], mode)
        async with database.connection() as connection:
            route = await stored.one(connection, key)
            if route is None:
                raise not_found("route")
            described = (await _described(connection, [route], clock))[0]
            described["numbers"] = route["numbers"]
            described["transitions"] = await stored.transitions(
                connection, key.capability, mode, [key.provider], SHOWN_DECISIONS
            )
        return json_response(described)

    @requires(tokens, Role.VIEWER)
    async def versions(request: Request) -> Response:
        query = query_of(request, PageQuery)
        async with database.connection() as connection:
            found = await stored_versions.page_of(connection, query.cursor(2), query.limit + 1)
        return json_response(page([shown(row, clock.now()) for row in found], query.limit, ("provider", "version")))

    return [
        Route("/v1/routes", overview),
        Route("/v1/routes/{capability}", capability),
        Route("/v1/routes/{capability}/{provider}", show),
        # The first names of the two above; the command line and the demo use them.
        Route("/v1/health", overview),
        Route("/v1/health/{capability}/{provider}", show),
        Route("/v1/api-versions", versions),
    ]


async def _explained(connection: Connection, name: str, mode: Mode, clock: Clock) -> dict[str, Any]:
    """Return a capability in a mode: its providers, who takes what, and the newest decisions with their evidence."""
    found = await stored.of_capability(connection, name, mode)
    plan = await operators.get_plan(connection, name)
    if not found and plan is None:
        return uncalled(name, mode, tuple(WINDOWS))
    providers = [route["provider"] for route in found]
    newest = max(found, key=lambda route: route["decided_at"], default=None)
    return {
        "capability": name,
        "mode": mode,
        "order": list(order_of(plan or Plan(), providers)),
        "configured": plan is not None,
        "wanted_shares": dict(plan.shares) if plan is not None else {},
        "shares": newest["shares"] if newest is not None else {},
        "providers": await _described(connection, found, clock),
        "decisions": await stored.transitions(connection, name, mode, providers, SHOWN_DECISIONS),
    }


async def _described(connection: Connection, found: Sequence[dict[str, Any]], clock: Clock) -> list[dict[str, Any]]:
    """Return routes as the API shows them; a window is made of whole minutes, the running one included."""
    keys = [RouteKey(route["provider"], route["capability"], route["mode"]) for route in found]
    minute = clock.now().replace(second=0, microsecond=0)
    windows = {name: await counts.totals(connection, keys, minute - length) for name, length in WINDOWS.items()}
    return [
        {
            **{name: route[name] for name in ("provider", "capability", "mode", "state", "share", "epoch")},
            **{name: route[name] for name in ("reason", "shares", "probe", "idempotent_only")},
            "since": route["decided_at"],
            "order": route["provider_order"],
            "override": _override(route),
            "windows": {name: summary(totals.get(key)) for name, totals in windows.items()},
        }
        for route, key in zip(found, keys, strict=True)
    ]


def _override(route: dict[str, Any]) -> dict[str, Any] | None:
    if route["override_state"] is None:
        return None
    return {name: route[f"override_{name}"] for name in ("state", "until", "reason", "actor")}
