"""HTTP API of quotas: what workers may spend, why, and an operator's own limit."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import body_of, json_response, not_found, query_of
from contracts.events.health import QuotaPolicy, QuotaWindow, is_kind
from contracts.modes import Mode, keyed
from health_monitor import audit
from health_monitor.limits import is_known
from health_monitor.quotas import Quotas
from health_monitor.repository import quotas as stored
from health_monitor.repository.quotas import BucketKey


class QuotaBody(BaseModel):
    """An operator's limit in one mode; an empty list of windows takes it back.

    The sandbox has the live limit while it has none of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "live"
    windows: tuple[QuotaWindow, ...] = Field(max_length=5)
    reason: str = Field(min_length=1, max_length=500)


def quota_routes(database: Database, tokens: TokenVerifier, clock: Clock, quotas: Quotas) -> list[BaseRoute]:
    """Return the routes."""

    @requires(tokens, Role.VIEWER)
    async def overview(request: Request) -> Response:
        query = query_of(request, PageQuery)
        async with database.connection() as connection:
            found = await stored.page_of(connection, query.cursor(3), query.limit + 1)
        return json_response(page(found, query.limit, ("provider", "bucket", "mode")))

    @requires(tokens, Role.OPERATOR)
    async def put(request: Request) -> Response:
        body = await body_of(request, QuotaBody)
        key = BucketKey(request.path_params["provider"], request.path_params["bucket"], body.mode)
        if not is_known(key.provider) or not is_kind(key.bucket):
            raise not_found("quota")

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            policy = await quotas.configure(uow, key, body.windows or None)
            if policy is None:
                raise not_found("quota")
            told = "; ".join(f"{one.limit:g} in {one.seconds:g} s" for one in body.windows) or "as published"
            actor = request.state.principal.subject
            target = keyed("quota", key.provider, key.bucket, mode=key.mode)
            detail = {"windows": told, "reason": body.reason, "mode": key.mode}
            audit.record(uow, actor, "quota.configured", target, clock.now(), **detail)
            return 200, _shown(key, policy)

        return await write_once(request, database, write)

    return [Route("/v1/quotas", overview), Route("/v1/quotas/{provider}/{bucket}", put, methods=["PUT"])]


def _shown(key: BucketKey, policy: QuotaPolicy) -> dict[str, Any]:
    told = policy.model_dump(mode="json", exclude={"provider", "bucket", "mode", "trims"})
    return {**key._asdict(), **told, "owners_trimmed": len(policy.trims)}
