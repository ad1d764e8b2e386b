"""HTTP API of the ledger role: search deliveries, and see one as it came."""

from __future__ import annotations

import gzip
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import AwareDatetime
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import Database
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import json_response, not_found, path_uuid, query_of
from webhook_gateway import repository


class DeliveryQuery(PageQuery):
    """Filters of the list; absent means any. `received_from` is inclusive, `received_to` exclusive."""

    provider: str | None = None
    outcome: Literal["accepted", "duplicate", "rejected"] | None = None
    type: str | None = None
    entity: str | None = None
    tenant: str | None = None
    endpoint: str | None = None
    received_from: AwareDatetime | None = None
    received_to: AwareDatetime | None = None

    def filters(self) -> dict[str, Any]:
        """Return the filters that are set, by column."""
        return {"event_type" if name == "type" else name: value for name, value in super().filters().items()}


def routes(database: Database, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of the ledger."""

    @requires(tokens, Role.VIEWER)
    async def search(request: Request) -> Response:
        query = query_of(request, DeliveryQuery)
        async with database.connection() as connection:
            found = await repository.search(connection, query.filters(), query.cursor(3), query.limit + 1)
        return json_response(page(found, query.limit, ("received_at", "id", "item")))

    @requires(tokens, Role.OPERATOR)
    async def show(request: Request) -> Response:
        delivery: UUID = path_uuid(request, "delivery_id")
        async with database.connection() as connection:
            items = await repository.items_of(connection, delivery)
        if not items:
            raise not_found("delivery")
        return json_response({"id": delivery, "items": [_readable(item) for item in items]})

    return [Route("/v1/deliveries", search), Route("/v1/deliveries/{delivery_id}", show)]


def _readable(item: dict[str, Any]) -> dict[str, Any]:
    """Show the body without its content coding, as JSON where it is JSON, else as text with replacement characters."""
    body: bytes = item.pop("body")
    # The items behind the first of a batch are stored by themselves; only the request itself is in its coding.
    if item["encoding"] and item["item"] == 0:
        body = gzip.decompress(body)
    try:
        return item | {"body": orjson.loads(body)}
    except orjson.JSONDecodeError:
        return item | {"body": body.decode(errors="replace")}
