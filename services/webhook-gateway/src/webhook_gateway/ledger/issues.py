"""`/v1/issues`: what a person should look at; and `/v1/shapes`: what bodies look like."""

from __future__ import annotations

from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.http.auth import Role, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, json_response, not_found, path_uuid, query_of
from webhook_gateway import audit
from webhook_gateway.ledger.api import LedgerApi
from webhook_gateway.repository import issues, shapes


class IssueQuery(PageQuery):
    """Filters of the list."""

    kind: issues.Kind | None = None
    state: Literal["open", "acknowledged", "resolved"] | None = None
    endpoint: str | None = None
    tenant: str | None = None
    provider: str | None = None


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of issues and shapes."""

    @requires(api.tokens, Role.VIEWER)
    async def list_issues(request: Request) -> Response:
        query = query_of(request, IssueQuery)
        async with api.database.connection() as connection:
            found = await issues.listed(connection, query.filters(), query.cursor(2), query.limit + 1)
        return json_response(page(found, query.limit, ("opened_at", "id")))

    @requires(api.tokens, Role.OPERATOR)
    async def acknowledge(request: Request) -> Response:
        wanted, by = path_uuid(request, "issue_id"), request.state.principal.subject
        async with api.database.unit_of_work() as uow:
            issue = await issues.acknowledge(uow.connection, wanted, by, api.clock.now())
            if issue is None:
                raise not_found("issue")
            if issue["state"] == "resolved":
                raise Problem(409, "wrong_state", "the issue is resolved")
            act = audit.Act(by, "issue.acknowledged", f"issue:{wanted}", issue["tenant"], {"kind": issue["kind"]})
            audit.record(uow, api.clock, act)
        return json_response(issue)

    @requires(api.tokens, Role.VIEWER)
    async def show_shape(request: Request) -> Response:
        provider, event_type = request.path_params["provider"], request.path_params["event_type"]
        async with api.database.connection() as connection:
            found = await shapes.of_type(connection, provider, event_type)
        if not found:
            raise not_found("shape")
        return json_response({"provider": provider, "type": event_type, "versions": found})

    return [
        Route("/v1/issues", list_issues),
        Route("/v1/issues/{issue_id}/acknowledge", acknowledge, methods=["POST"]),
        # An event type may hold slashes.
        Route("/v1/shapes/{provider}/{event_type:path}", show_shape),
    ]
