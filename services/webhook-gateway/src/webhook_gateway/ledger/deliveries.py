"""`/v1/deliveries`: search, one delivery's whole story, export, and verifying a refused one again."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from chassis.http.auth import Principal, Role, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, json_response, not_found, path_uuid, query_of
from contracts.errors import Invalid
from webhook_gateway import audit, privacy
from webhook_gateway.hidden import Hidden
from webhook_gateway.ledger.api import LedgerApi, wants_raw
from webhook_gateway.repository import deadletters, deliveries, effects, replays, search
from webhook_gateway.selection import DeliveryFilter

# More attempts or effects than this are no story; the search has them all.
MAX_STORY_ROWS: Final = 500
_NEWEST: Final = ("received_at", "id", "item")


class DeliveryQuery(PageQuery, DeliveryFilter):
    """Filters of the list, and the page."""

    def wanted(self) -> DeliveryFilter:
        """Return the filters alone."""
        return DeliveryFilter.model_validate(self.filters())


def routes(api: LedgerApi) -> list[BaseRoute]:
    """Return the routes of deliveries."""

    @requires(api.tokens, Role.VIEWER)
    async def list_deliveries(request: Request) -> Response:
        query = query_of(request, DeliveryQuery)
        _may_search(query, request.state.principal)
        found = await search.search(api.database, query.wanted(), query.cursor(3), query.limit + 1)
        return json_response(page(found, query.limit, _NEWEST))

    @requires(api.tokens, Role.OPERATOR)
    async def export(request: Request) -> Response:
        wanted = query_of(request, DeliveryFilter)
        if wanted.path is not None:
            # A wrong path must be answered before the stream begins.
            await search.search(api.database, wanted, None, 1)
        act = audit.Act(request.state.principal.subject, "deliveries.exported", "deliveries", wanted.tenant or "")
        async with api.database.unit_of_work() as uow:
            audit.record(uow, api.clock, act)
        headers = {"content-disposition": 'attachment; filename="deliveries.ndjson"'}
        return StreamingResponse(_lines(api, wanted), media_type="application/x-ndjson", headers=headers)

    @requires(api.tokens, Role.OPERATOR)
    async def show(request: Request) -> Response:
        delivery = path_uuid(request, "delivery_id")
        async with api.database.connection() as connection:
            items = await deliveries.items_of(connection, delivery)
        if not items:
            raise not_found("delivery")
        await _unclaim(api, items)
        raw = await wants_raw(api, request, f"delivery:{delivery}", items[0]["tenant"])
        shown = [_raw(api, item) if raw else privacy.shown(item, _hidden(api, item)) for item in items]
        return json_response({"id": delivery, "items": shown, **await _story(api, delivery, items)})

    @requires(api.tokens, Role.OPERATOR)
    async def verify_again(request: Request) -> Response:
        delivery = path_uuid(request, "delivery_id")
        if api.reverifier is None:
            raise Problem(409, "no_keyring", "this ledger has no keyring; set PATCHBAY_KEYRING")
        return json_response(await api.reverifier.verify(delivery, request.state.principal.subject))

    return [
        Route("/v1/deliveries", list_deliveries),
        Route("/v1/deliveries/export", export),
        Route("/v1/deliveries/{delivery_id}", show),
        Route("/v1/deliveries/{delivery_id}/reverify", verify_again, methods=["POST"]),
    ]


async def _lines(api: LedgerApi, wanted: DeliveryFilter) -> AsyncIterator[bytes]:
    async for row in search.every(api.database, wanted):
        shown = privacy.shown(row, _hidden(api, row))
        yield orjson.dumps(shown, default=str, option=orjson.OPT_APPEND_NEWLINE)


async def _story(api: LedgerApi, delivery: UUID, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what else is known: attempts of the same events, replays, effects downstream, and who gave them up."""
    events = sorted({(item["endpoint"], item["event_id"]) for item in items if item["event_id"]})
    async with api.database.connection() as connection:
        attempts = await deliveries.attempts_of(connection, events, MAX_STORY_ROWS) if events else []
        for item in items:
            if item["settled"] == "reverified":
                attempts += await deliveries.made_from(connection, delivery, item["received_at"])
        written = await replays.jobs_of(connection, delivery)
        # A new event id carries the job's as its suffix, and so does what it caused.
        causes = {item["message_id"] for item in items if item["message_id"]}
        causes |= {f"{cause}+{job['id']}" for cause in causes for job in written}
        traces = {item["trace_id"] for item in items if item["trace_id"]}
        caused = await effects.effects_of(connection, sorted(traces), sorted(causes), MAX_STORY_ROWS)
        given_up = await deadletters.of_messages(connection, sorted(causes), MAX_STORY_ROWS)
    return {"attempts": attempts, "replays": written, "effects": caused, "dead_letters": given_up}


def _may_search(query: DeliveryQuery, caller: Principal) -> None:
    """Raise `Problem` 403 for a search by path of a caller who may not see bodies.

    Whoever may ask what a body holds can read it, question by question.
    """
    if query.path is not None and Role.OPERATOR not in caller.roles:
        raise Problem(403, "wrong_role", f"a search by path needs the role {Role.OPERATOR}")


async def _unclaim(api: LedgerApi, items: Sequence[dict[str, Any]]) -> None:
    for item in items:
        if item["claim"]:
            item["body"] = await _claimed(api, item["claim"])


async def _claimed(api: LedgerApi, claim: str) -> bytes:
    """Return a body from the claim-check store; empty when it was swept, or when this ledger has no store."""
    if api.claims is None:
        return b""
    try:
        return await api.claims.get(claim)
    except Invalid:
        return b""


def _hidden(api: LedgerApi, item: dict[str, Any]) -> Hidden:
    return api.book.hidden(item["endpoint"], item["provider"])


def _raw(api: LedgerApi, item: dict[str, Any]) -> dict[str, Any]:
    """Return an item with its body as it came, as text where it is text and always as base64.

    Headers that are credentials stay hidden: nobody needs them to understand a body.
    """
    headers = privacy.shown_headers(item["headers"], _hidden(api, item))
    body = privacy.inflate(item["body"]) if item["encoding"] and item["item"] == 0 else item["body"]
    raw = base64.b64encode(item["body"]).decode()
    return item | {"headers": headers, "body": _text(body), "body_base64": raw}


def _text(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace")
