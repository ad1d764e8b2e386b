"""HTTP API of the orchestrator: start a saga, see one with its timeline, list them."""

from __future__ import annotations

from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import body_of, invalid, json_response, not_found, path_uuid, query_of
from chassis.telemetry.traces import start_span, traceparent
from contracts.errors import Invalid
from orchestrator import repository
from orchestrator.catalogue import StartRequest, all_sagas
from orchestrator.models import Saga
from orchestrator.runtime import Runtime


class SagaQuery(PageQuery):
    """Filters of the list."""

    tenant: str | None = None
    definition: str | None = None
    business_key: str | None = None
    status: Literal["running", "waiting", "completed", "failed", "needs_attention"] | None = None


class Api:
    """Handlers of the routes with what they need."""

    def __init__(self, database: Database, runtime: Runtime) -> None:
        self._database = database
        self._runtime = runtime

    async def start(self, request: Request) -> Response:
        """Start a saga: 202, or 200 with the run that its business key has already."""
        saga = all_sagas().get(request.path_params["definition"])
        if saga is None:
            raise not_found("saga definition")
        given = await body_of(request, saga.input_model)
        actor = request.state.principal.subject
        span = start_span(f"start {saga.definition.name}", parent=request.headers.get("traceparent"))

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            wanted = StartRequest(saga.definition, given, cause=f"asked for by {actor}")
            started, is_new = await self._runtime.start(uow, wanted, started_by=actor, trace=traceparent(span))
            return 202 if is_new else 200, _shown(started)

        try:
            return await write_once(request, self._database, write)
        except Invalid as error:
            raise invalid(error.field or "definition", error.detail, error.code) from None
        finally:
            span.end()

    async def show(self, request: Request) -> Response:
        """Show one run with its timeline."""
        async with self._database.connection() as connection:
            found = await repository.show(connection, path_uuid(request, "saga_id"))
        if found is None:
            raise not_found("saga")
        return json_response(found)

    async def search(self, request: Request) -> Response:
        """List runs, newest first."""
        query = query_of(request, SagaQuery)
        async with self._database.connection() as connection:
            found = await repository.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("id",)))


def routes(api: Api, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of the orchestrator."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    return [
        Route("/v1/sagas", viewer(api.search)),
        Route("/v1/sagas/{definition}", operator(api.start), methods=["POST"]),
        Route("/v1/sagas/{saga_id}", viewer(api.show)),
    ]


def _shown(saga: Saga) -> dict[str, Any]:
    shown = saga.model_dump(mode="json")
    return {name: shown[name] for name in ("id", "tenant", "definition", "version", "business_key", "status")}
