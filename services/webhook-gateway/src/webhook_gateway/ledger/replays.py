"""`/v1/replays`: write one, many, or all deliveries of a query to their lanes again."""

from __future__ import annotations

from typing import Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import UnitOfWork
from chassis.http.auth import Role, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, path_uuid, query_of
from webhook_gateway import audit
from webhook_gateway.ledger.api import LedgerApi, plain
from webhook_gateway.replay import MAX_ITEMS, Order, create
from webhook_gateway.repository import replays
from webhook_gateway.repository.replays import Choice
from webhook_gateway.repository.search import path_problem
from webhook_gateway.selection import DeliveryFilter

MAX_IDS: Final = 1000
# From what an act is called to the state that it leads to, and the states in which it is possible.
_ACTS: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    "pause": ("paused", "replay.paused", ("queued", "running")),
    "resume": ("running", "replay.resumed", ("paused", "failed")),
    "cancel": ("cancelled", "replay.cancelled", ("queued", "running", "paused", "failed")),
}


class ReplayRequest(BaseModel):
    """Which deliveries: `delivery_ids`, or a `query`, or an `endpoint` and a window of time; exactly one of the three.

    `rate_per_s` bounds the writing. `new_event_id` makes consumers process the events again, which can repeat effects;
    without it what was processed is absorbed. `dry_run` only says what it would be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    delivery_ids: tuple[UUID, ...] | None = Field(default=None, min_length=1, max_length=MAX_IDS)
    query: DeliveryFilter | None = None
    endpoint: str | None = None
    received_from: AwareDatetime | None = None
    received_to: AwareDatetime | None = None
    rate_per_s: float = Field(default=100, gt=0, le=5000)
    reason: str = Field(min_length=3, max_length=500)
    new_event_id: bool = False
    dry_run: bool = False

    def choice(self) -> Choice:
        """Return what is chosen; raises `Problem` 422 unless it is said in one way, and narrowed by something."""
        if sum(given is not None for given in (self.delivery_ids, self.query, self.endpoint)) != 1:
            raise invalid("query", "give exactly one of delivery_ids, query and endpoint")
        window = {"received_from": self.received_from, "received_to": self.received_to}
        if self.endpoint is not None:
            return Choice("replay", DeliveryFilter(endpoint=self.endpoint, **window))
        if any(window.values()):
            raise invalid("received_from", "a window stands beside an endpoint, or inside the query")
        if self.query is not None:
            if not self.query.model_dump(exclude_none=True):
                raise invalid("query", "needs at least one filter")
            if self.query.outcome not in (None, "accepted", "duplicate"):
                raise invalid("query.outcome", "only accepted deliveries and their duplicates can be replayed")
            return Choice("replay", self.query)
        return Choice("replay", deliveries=self.delivery_ids)


class ReplayQuery(PageQuery):
    """Filters of the list of jobs."""

    kind: Literal["replay", "release"] | None = None
    state: Literal["queued", "running", "paused", "done", "failed", "cancelled"] | None = None
    endpoint: str | None = None


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of replays."""

    @requires(api.tokens, Role.OPERATOR)
    async def start(request: Request) -> Response:
        asked = await body_of(request, ReplayRequest)
        choice = asked.choice()
        try:
            if asked.dry_run:
                return await _dry_run(api, choice)
            return await write_once(request, api.database, lambda uow: _start(uow, api, request, asked))
        except Exception as error:
            problem = path_problem(error) if choice.wanted.path is not None else None
            if problem is None:
                raise
            raise problem from error

    @requires(api.tokens, Role.VIEWER)
    async def list_jobs(request: Request) -> Response:
        query = query_of(request, ReplayQuery)
        async with api.database.connection() as connection:
            found = await replays.listed(connection, query.filters(), query.cursor(2), query.limit + 1)
        return json_response(page(found, query.limit, ("created_at", "id")))

    @requires(api.tokens, Role.VIEWER)
    async def show(request: Request) -> Response:
        return json_response(await _job(api, path_uuid(request, "replay_id")))

    @requires(api.tokens, Role.OPERATOR)
    async def act(request: Request) -> Response:
        job, wanted = path_uuid(request, "replay_id"), request.path_params["act"]
        if wanted not in _ACTS:
            raise not_found("act")
        await _act(api, job, wanted, request.state.principal.subject)
        return json_response(await _job(api, job))

    return [
        Route("/v1/replays", start, methods=["POST"]),
        Route("/v1/replays", list_jobs),
        Route("/v1/replays/{replay_id}", show),
        Route("/v1/replays/{replay_id}/{act}", act, methods=["POST"]),
    ]


async def _start(uow: UnitOfWork, api: LedgerApi, request: Request, asked: ReplayRequest) -> tuple[int, dict[str, Any]]:
    by, choice = request.state.principal.subject, asked.choice()
    order = Order(
        choice,
        asked.rate_per_s,
        asked.reason,
        by,
        new_event_id=asked.new_event_id,
        endpoint=choice.wanted.endpoint or "",
        tenant=choice.wanted.tenant or "",
    )
    job = await create(uow, order, api.clock.now())
    if job.total > MAX_ITEMS:
        raise invalid("query", f"matches more than {MAX_ITEMS} deliveries; narrow it")
    if job.total == 0:
        raise Problem(409, "nothing_to_replay", "no delivery that can be replayed is chosen")
    detail = {"deliveries": str(job.total), "reason": asked.reason, "new_event_id": str(asked.new_event_id).lower()}
    audit.record(uow, api.clock, audit.Act(by, "replay.started", f"replay:{job.id}", order.tenant, detail))
    return 201, plain(job.model_dump())


async def _dry_run(api: LedgerApi, choice: Choice) -> Response:
    async with api.database.unit_of_work() as uow:
        found = await replays.matching(uow.connection, choice, MAX_ITEMS)
    total = sum(one["deliveries"] for one in found)
    return json_response({"dry_run": True, "total": min(total, MAX_ITEMS), "too_many": total > MAX_ITEMS, "by": found})


async def _job(api: LedgerApi, job: UUID) -> dict[str, Any]:
    async with api.database.connection() as connection:
        found = await replays.one(connection, job)
    if found is None:
        raise not_found("replay")
    return found


async def _act(api: LedgerApi, job: UUID, wanted: str, by: str) -> None:
    state, action, allowed = _ACTS[wanted]
    async with api.database.unit_of_work() as uow:
        known = await replays.one(uow.connection, job)
        if known is None:
            raise not_found("replay")
        if not await replays.change_state(uow.connection, job, state, allowed, api.clock.now()):
            raise Problem(409, "wrong_state", f"a replay that is {known['state']} cannot be {state}")
        audit.record(uow, api.clock, audit.Act(by, action, f"replay:{job}", known["tenant"]))
