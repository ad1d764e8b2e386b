"""HTTP API of the health monitor, writing: states with a time to live, orders of providers, clearance of SELF_FAULT.

Every write is audited in its transaction; the owner of the route takes it up within a second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.connection import Connection
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.problems import body_of, invalid, not_found, query_of
from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.events.health import RouteState
from contracts.modes import Mode
from health_monitor import audit
from health_monitor.failover import Plan
from health_monitor.monitor import Override
from health_monitor.repository import operators
from health_monitor.repository import routes as stored
from health_monitor.routes import ModeQuery
from health_monitor.statistics import RouteKey
from providers import registry

MAX_TTL_S: Final = 7 * 24 * 3600
_ALL: Final = 100

Change = Callable[[UnitOfWork, str, datetime], Awaitable[dict[str, Any]]]


class OverrideBody(BaseModel):
    """A state that an operator demands; without a time to live it would be forgotten, so that is required."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "live"
    state: Literal["maintenance", "forced_up", "forced_down"]
    ttl_s: int = Field(ge=1, le=MAX_TTL_S)
    reason: str = Field(min_length=1, max_length=500)


class OrderBody(BaseModel):
    """The providers of a capability, the preferred one first; `shares` in percent add up to 100, or are left out.

    For both modes: each gives out the shares among its own routes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: tuple[Slug, ...] = Field(min_length=1, max_length=50)
    shares: dict[Slug, int] = Field(default_factory=dict)


class Operations:
    """The writing endpoints; `wake` is called after each write."""

    def __init__(self, database: Database, tokens: TokenVerifier, clock: Clock, wake: Callable[[], None]) -> None:
        self._database = database
        self._tokens = tokens
        self._clock = clock
        self._wake = wake

    def routes(self) -> list[BaseRoute]:
        """Return the routes, for operators only."""
        table = (
            ("/v1/routes/{capability}/{provider}/override", self._put_override, "PUT"),
            ("/v1/routes/{capability}/{provider}/override", self._end_override, "DELETE"),
            ("/v1/capabilities/{capability}/order", self._put_order, "PUT"),
            ("/v1/self-fault/clear", self._clear, "POST"),
        )
        guarded = requires(self._tokens, Role.OPERATOR)
        return [Route(path, guarded(endpoint), methods=[method]) for path, endpoint, method in table]

    async def _put_override(self, request: Request) -> Response:
        body = await body_of(request, OverrideBody)
        key = _key(request, body.mode)

        async def change(uow: UnitOfWork, actor: str, now: datetime) -> dict[str, Any]:
            await _must_exist(uow.connection, key.provider, key.capability)
            wanted = Override(RouteState(body.state), now + timedelta(seconds=body.ttl_s), body.reason, actor)
            await operators.put_override(uow.connection, key, wanted, now)
            until = wanted.until.isoformat()
            detail = {"state": body.state, "until": until, "reason": body.reason}
            audit.record(uow, actor, "route.overridden", _target(key), now, mode=key.mode, **detail)
            return {**key._asdict(), **detail, "ttl_s": body.ttl_s, "actor": actor}

        return await self._written(request, change)

    async def _end_override(self, request: Request) -> Response:
        key = _key(request, query_of(request, ModeQuery).mode)

        async def change(uow: UnitOfWork, actor: str, now: datetime) -> dict[str, Any]:
            if not await operators.end_override(uow.connection, key):
                raise not_found("override")
            audit.record(uow, actor, "route.override_ended", _target(key), now, mode=key.mode)
            return {**key._asdict(), "override": None}

        return await self._written(request, change)

    async def _put_order(self, request: Request) -> Response:
        body, capability = await body_of(request, OrderBody), request.path_params["capability"]
        _check_order(body)

        async def change(uow: UnitOfWork, actor: str, now: datetime) -> dict[str, Any]:
            for provider in body.order:
                await _must_exist(uow.connection, provider, capability)
            await operators.put_plan(uow.connection, capability, Plan(body.order, body.shares), actor, now)
            shares = ", ".join(f"{name}={share}" for name, share in body.shares.items())
            detail = {"order": ", ".join(body.order), "shares": shares}
            audit.record(uow, actor, "capability.ordered", f"capability:{capability}", now, **detail)
            return {"capability": capability, "order": list(body.order), "shares": body.shares}

        return await self._written(request, change)

    async def _clear(self, request: Request) -> Response:
        async def change(uow: UnitOfWork, actor: str, now: datetime) -> dict[str, Any]:
            await operators.clear_self_fault(uow.connection, actor, now)
            audit.record(uow, actor, "self_fault.cleared", "routes", now)
            return {"cleared_by": actor}

        return await self._written(request, change)

    async def _written(self, request: Request, change: Change) -> Response:
        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            answer = await change(uow, request.state.principal.subject, self._clock.now())
            uow.after_commit(self._wake)
            return 200, answer

        return await write_once(request, self._database, write)


def _key(request: Request, mode: Mode) -> RouteKey:
    return RouteKey(request.path_params["provider"], request.path_params["capability"], mode)


def _target(key: RouteKey) -> str:
    return audit.target(key.capability, key.provider, key.mode)


def _check_order(body: OrderBody) -> None:
    if len(set(body.order)) != len(body.order):
        raise invalid("order", "names a provider twice")
    if body.shares and (set(body.shares) - set(body.order) or min(body.shares.values()) < 0):
        raise invalid("shares", "are percentages of providers in the order")
    if body.shares and sum(body.shares.values()) != _ALL:
        raise invalid("shares", "add up to 100")


async def _must_exist(connection: Connection, provider: str, capability: str) -> None:
    """Raise a `Problem` 404 unless calls were seen there in some mode, or the provider says that it offers that."""
    if await stored.is_known(connection, provider, capability):
        return
    try:
        known = capability in registry.get(provider).manifest.capabilities
    except Invalid:
        known = False
    if not known:
        raise not_found("route")
