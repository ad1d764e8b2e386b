"""HTTP API of the audit log: search it, and follow its whole hash chain."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.db.database import Database
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.paging import PageQuery, page
from chassis.http.problems import invalid, json_response, query_of
from verification import repository
from verification.audit_chain import Head, check

# About a megabyte of entries in memory at a time, however long the log is.
CHUNK_ENTRIES = 1000


class AuditQuery(PageQuery):
    """Filters of the list; absent means any."""

    action: str | None = None
    tenant: str | None = None


def routes(database: Database, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of the audit log."""

    @requires(tokens, Role.OPERATOR)
    async def search(request: Request) -> Response:
        query = query_of(request, AuditQuery)
        before = (query.cursor(1) or [None])[0]
        if before is not None and not isinstance(before, int):
            raise invalid("after", "must be the `next` of a previous page")
        async with database.connection() as connection:
            found = await repository.search_audit(
                connection, action=query.action, tenant=query.tenant, before=before, limit=query.limit + 1
            )
        answer = page(found, query.limit, ("index",))
        answer["items"] = [
            entry | {"prev_hash": entry["prev_hash"].hex(), "hash": entry["hash"].hex()} for entry in answer["items"]
        ]
        return json_response(answer)

    @requires(tokens, Role.OPERATOR)
    async def verify(_request: Request) -> Response:
        async with database.connection() as connection:
            entries = await repository.audit_size(connection)
            head, broken = Head(), None
            while broken is None and (chunk := await repository.audit_chunk(connection, head.index, CHUNK_ENTRIES)):
                head, broken = check(head, chunk)
        answer = {"entries": entries, "head": head.hash.hex(), "intact": broken is None, "firstBroken": broken}
        return json_response(answer)

    return [Route("/v1/audit", search), Route("/v1/audit/verify", verify)]
