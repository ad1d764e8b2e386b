"""What the routes of the ledger share: their means, who asks, and whether it may see a body as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request

from chassis.claims import ClaimStore
from chassis.clock import Clock
from chassis.db.database import Database
from chassis.http.auth import Principal, Role, TokenVerifier
from chassis.http.problems import Problem, query_of
from webhook_gateway import audit
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.reverify import Reverifier


@dataclass(frozen=True, slots=True)
class LedgerApi:
    """What the routes need. `reverifier` is None without a keyring, `claims` without a claim-check store."""

    database: Database
    clock: Clock
    book: EndpointBook
    tokens: TokenVerifier
    reverifier: Reverifier | None = None
    claims: ClaimStore | None = None


class RawQuery(BaseModel):
    """`raw` asks for bodies as they came, without redaction; admins only, and audited."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    raw: bool = False


async def wants_raw(api: LedgerApi, request: Request, target: str, tenant: str) -> bool:
    """Tell whether the caller asks for the raw body, and audit it; raises `Problem` 403 for anybody but an admin."""
    if not query_of(request, RawQuery).raw:
        return False
    caller: Principal = request.state.principal
    if Role.ADMIN not in caller.roles:
        raise Problem(403, "wrong_role", f"raw bodies need the role {Role.ADMIN}")
    async with api.database.unit_of_work() as uow:
        audit.record(uow, api.clock, audit.Act(caller.subject, "raw_body.seen", target, tenant))
    return True


def plain(value: Any) -> Any:
    """Return a value as plain JSON types: ids and instants as text."""
    return orjson.loads(orjson.dumps(value, default=str))
