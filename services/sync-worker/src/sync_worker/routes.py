"""HTTP API of canonical payments."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import Database
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import json_response, not_found, path_uuid, query_of
from sync_worker.repository import payments


class PaymentQuery(PageQuery):
    """Filters of the payment list."""

    tenant: str | None = None
    provider: str | None = None
    status: str | None = None
    external_id: str | None = None


class Api:
    """Handlers of the routes with what they need."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_payments(self, request: Request) -> Response:
        """List canonical payments, latest change first."""
        query = query_of(request, PaymentQuery)
        async with self._database.connection() as connection:
            found = await payments.search(connection, query.filters(), query.cursor(2), query.limit + 1)
        return json_response(page(found, query.limit, ("updated_at", "id")))

    async def show_payment(self, request: Request) -> Response:
        """Show one canonical payment, without its customer's contact."""
        async with self._database.connection() as connection:
            found = await payments.get(connection, path_uuid(request, "payment_id"))
        if found is None:
            raise not_found("payment")
        return json_response(found.model_dump(exclude=set(payments.PRIVATE)))


def routes(api: Api, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of payments."""
    viewer = requires(tokens, Role.VIEWER)
    return [
        Route("/v1/entities/payments", viewer(api.list_payments)),
        Route("/v1/entities/payments/{payment_id}", viewer(api.show_payment)),
    ]
