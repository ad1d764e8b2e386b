"""`/v1/quarantine`: deliveries that were held back, and what an operator decides about them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import UnitOfWork
from chassis.http.auth import Role, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, json_response, not_found, path_uuid, query_of
from webhook_gateway import audit
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.replay import Order, create
from webhook_gateway.repository import deliveries, quarantine
from webhook_gateway.repository.replays import Choice

_RELEASE_RATE_PER_S: Final = 100.0


class Decision(BaseModel):
    """Why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: str = Field(min_length=3, max_length=500)


class QuarantineQuery(PageQuery):
    """Filters of the list."""

    outcome: Literal["held", "conflict"] | None = None
    endpoint: str | None = None
    tenant: str | None = None
    provider: str | None = None


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of the quarantine."""

    @requires(api.tokens, Role.VIEWER)
    async def list_quarantine(request: Request) -> Response:
        query = query_of(request, QuarantineQuery)
        async with api.database.connection() as connection:
            found = await quarantine.listed(connection, query.filters(), query.cursor(3), query.limit + 1)
        return json_response(page(found, query.limit, ("received_at", "id", "item")))

    @requires(api.tokens, Role.OPERATOR)
    async def release(request: Request) -> Response:
        delivery, why = path_uuid(request, "delivery_id"), await body_of(request, Decision)
        by = request.state.principal.subject
        async with api.database.unit_of_work() as uow:
            items = await _unsettled(uow, delivery)
            first = items[0]
            choice = Choice("release", deliveries=[delivery])
            order = Order(
                choice, _RELEASE_RATE_PER_S, why.reason, by, endpoint=first["endpoint"], tenant=first["tenant"]
            )
            job = await create(uow, order, api.clock.now())
            await deliveries.settle(uow.connection, _places(items), "released")
            act = _act(by, "quarantine.released", first, {"reason": why.reason, "job": str(job.id)})
            audit.record(uow, api.clock, act)
        return json_response({"delivery": delivery, "job": job.id, "total": job.total}, 202)

    @requires(api.tokens, Role.OPERATOR)
    async def discard(request: Request) -> Response:
        delivery, why = path_uuid(request, "delivery_id"), await body_of(request, Decision)
        async with api.database.unit_of_work() as uow:
            items = await _unsettled(uow, delivery)
            await deliveries.settle(uow.connection, _places(items), "discarded")
            by = request.state.principal.subject
            audit.record(uow, api.clock, _act(by, "quarantine.discarded", items[0], {"reason": why.reason}))
        return json_response({"delivery": delivery, "discarded": len(items)})

    return [
        Route("/v1/quarantine", list_quarantine),
        Route("/v1/quarantine/{delivery_id}/release", release, methods=["POST"]),
        Route("/v1/quarantine/{delivery_id}/discard", discard, methods=["POST"]),
    ]


def _places(items: list[dict[str, Any]]) -> list[tuple[UUID, int, datetime]]:
    return [(item["id"], item["item"], item["received_at"]) for item in items]


async def _unsettled(uow: UnitOfWork, delivery: UUID) -> list[dict[str, Any]]:
    """Return what of a delivery waits for a decision; another decision about it waits until this one is made."""
    await uow.connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(delivery))
    items = await deliveries.items_of(uow.connection, delivery)
    if not items:
        raise not_found("delivery")
    waiting = [one for one in items if one["outcome"] in ("held", "conflict") and not one["settled"]]
    if not waiting:
        raise Problem(409, "not_in_quarantine", "nothing of this delivery is held back any more")
    return waiting


def _act(by: str, action: str, item: dict[str, Any], detail: dict[str, str]) -> audit.Act:
    return audit.Act(by, action, f"delivery:{item['id']}", item["tenant"], detail)
