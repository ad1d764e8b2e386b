"""HTTP API of endpoints and of the tenants' tree. Secrets are write-only.

A change may carry `If-Match` with the version that the caller has seen; another one by now is a 412.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db import tenancy
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, path_uuid, query_of
from contracts.errors import Invalid
from sync_worker.audit import Audit
from sync_worker.endpoints import configuration
from sync_worker.endpoints.configuration import EndpointSettings, NewEndpoint
from sync_worker.endpoints.desk import Endpoints
from sync_worker.endpoints.offered_codes import OfferedCodes
from sync_worker.endpoints.tenant_tree import TenantBody, TenantTree
from sync_worker.repository import connections, endpoints, tenants
from sync_worker.repository.endpoints import Stored

# The overlap that Svix Ingest uses for URL tokens too (gateway.md F1): a day for every sender to follow.
OVERLAP_H: Final = 24.0
MAX_OVERLAP_H: Final = 168.0
_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

Act = Callable[[UnitOfWork, Stored, str], Awaitable[dict[str, Any]]]


class EndpointQuery(PageQuery):
    """Filters of the endpoint list."""

    tenant: str | None = None
    provider: str | None = None
    connection: UUID | None = None
    state: Literal["live", "paused"] | None = None


class NewKey(BaseModel):
    """Body of `POST …/secrets`. `overlap_h` null leaves the older keys valid without an end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: SecretStr
    not_before: AwareDatetime | None = None
    overlap_h: float | None = Field(default=OVERLAP_H, ge=0, le=MAX_OVERLAP_H)


class Retirement(BaseModel):
    """Query of `DELETE …/secrets/{key_id}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    force: bool = False


class UrlRotation(BaseModel):
    """Body of `POST …/rotate-url`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap_h: float = Field(default=OVERLAP_H, ge=0, le=MAX_OVERLAP_H)


class EndpointApi:
    """Handlers of the endpoint routes with what they need."""

    def __init__(self, database: Database, desk: Endpoints, clock: Clock, codes: OfferedCodes) -> None:
        self._database = database
        self._desk = desk
        self._clock = clock
        self._codes = codes

    async def list_endpoints(self, request: Request) -> Response:
        """List endpoints in order of id."""
        query = query_of(request, EndpointQuery)
        async with self._database.connection() as connection:
            found = await endpoints.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("id",)))

    async def show_endpoint(self, request: Request) -> Response:
        """Show one endpoint with its keys, addresses and settings; `ETag` is its version."""
        async with self._database.connection() as connection:
            found = await endpoints.load(connection, [request.path_params["endpoint_id"]])
        if not found:
            raise not_found("endpoint")
        response = json_response(self._shown(found[0]))
        response.headers["etag"] = f'"{found[0].endpoint.version}"'
        return response

    async def create_endpoint(self, request: Request) -> Response:
        """Add an endpoint to a live connection: 201, with its address."""
        new = await body_of(request, NewEndpoint)
        connection_id = path_uuid(request, "connection_id")
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            await endpoints.serialise(uow.connection, connection_id)
            await tenants.lock_tree(uow.connection, shared=True)
            connection = await connections.by_id(uow.connection, connection_id)
            if connection is None:
                raise not_found("connection")
            given = new.secret.get_secret_value() if new.secret is not None else None
            try:
                secret = await self._desk.secret_for(uow, connection, given)
                created = await self._desk.create(uow, connection, secret, new, actor)
            except Invalid as error:
                raise _named(error) from None
            return 201, self._shown(created)

        return await write_once(request, self._database, write)

    async def change_endpoint(self, request: Request) -> Response:
        """Set what the body gives, and leave the rest."""
        settings = await body_of(request, EndpointSettings)

        async def act(uow: UnitOfWork, stored: Stored, actor: str) -> dict[str, Any]:
            await self._desk.change(uow, stored, settings, actor)
            return {}

        return await self._write(request, act)

    async def remove_endpoint(self, request: Request) -> Response:
        """Delete an endpoint: 204; its addresses answer 404 within a second."""
        async with self._database.unit_of_work() as uow:
            stored = await self._opened(uow, request)
            await self._desk.remove(uow, stored, request.state.principal.subject)
        return Response(status_code=204)

    async def show_code(self, request: Request) -> Response:
        """Show the code that the provider posted while the endpoint was being set up; 404 when none came. Audited."""
        endpoint_id = request.path_params["endpoint_id"]
        code = self._codes.newest(endpoint_id)
        if code is None:
            raise not_found("code")
        async with self._database.unit_of_work() as uow:
            actor = request.state.principal.subject
            target = f"endpoint/{endpoint_id}"
            Audit(self._clock).record(uow, actor, "endpoint.code_shown", tenant=code.tenant, target=target)
        return json_response({"endpoint": endpoint_id, "code": code.value, "received_at": code.received_at})

    async def add_key(self, request: Request) -> Response:
        """Add a secret as the newest key; older ones end after the overlap. 201."""
        new = await body_of(request, NewKey)

        async def act(uow: UnitOfWork, stored: Stored, actor: str) -> dict[str, Any]:
            window = (new.not_before, new.overlap_h)
            return {"key_id": await self._desk.add_key(uow, stored, new.value.get_secret_value(), actor, window)}

        return await self._write(request, act, status=201)

    async def retire_key(self, request: Request) -> Response:
        """Retire a key now; 409 when no other key stays valid, unless `?force=true`."""
        force = query_of(request, Retirement).force
        key_id = request.path_params["key_id"]

        async def act(uow: UnitOfWork, stored: Stored, actor: str) -> dict[str, Any]:
            if not await self._desk.retire_key(uow, stored, key_id, actor, force=force):
                raise not_found("key")
            return {}

        return await self._write(request, act)

    async def rotate_url(self, request: Request) -> Response:
        """Give the endpoint a new address; the old one is served until the overlap ends."""
        overlap_h = (await body_of(request, UrlRotation)).overlap_h

        async def act(uow: UnitOfWork, stored: Stored, actor: str) -> dict[str, Any]:
            await self._desk.rotate_url(uow, stored, overlap_h, actor)
            return {}

        return await self._write(request, act)

    async def pause(self, request: Request) -> Response:
        """Hold deliveries back from the lanes; they are still verified and acknowledged."""
        return await self._set_state(request, "paused")

    async def resume(self, request: Request) -> Response:
        """Let deliveries into the lanes again."""
        return await self._set_state(request, "live")

    async def _set_state(self, request: Request, state: str) -> Response:
        async def act(uow: UnitOfWork, stored: Stored, actor: str) -> dict[str, Any]:
            await self._desk.set_state(uow, stored, state, actor)
            return {}

        return await self._write(request, act)

    async def _write(self, request: Request, act: Act, *, status: int = 200) -> Response:
        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            stored = await self._opened(uow, request)
            try:
                extra = await act(uow, stored, request.state.principal.subject)
            except Invalid as error:
                raise _named(error) from None
            return status, self._shown(stored) | extra

        return await write_once(request, self._database, write)

    async def _opened(self, uow: UnitOfWork, request: Request) -> Stored:
        stored = await self._desk.open(uow, request.path_params["endpoint_id"])
        if stored is None:
            raise not_found("endpoint")
        _check_version(request, stored.endpoint.version)
        return stored

    def _shown(self, stored: Stored) -> dict[str, Any]:
        """Return an endpoint as the API shows it; what is sealed stays out."""
        endpoint, now = stored.endpoint, self._clock.now()
        hidden = {"sealed", "endpoint", "warned_at"}
        keys = [
            key.model_dump(mode="json", exclude=hidden)
            | {"state": "pending" if key.not_before is not None and now < key.not_before else "live"}
            for key in stored.keys
            if key.not_after is None or now < key.not_after
        ]
        return {
            "id": endpoint.id,
            "connection": str(endpoint.connection),
            "provider": stored.provider,
            "tenant": stored.tenant,
            "url": endpoint.url,
            "state": endpoint.state,
            "lane": str(endpoint.lane),
            "version": endpoint.version,
            "addresses": [
                one.model_dump(mode="json", include={"url", "not_after"})
                | {"state": "retired" if one.not_after is not None and one.not_after <= now else "live"}
                for one in stored.addresses
            ],
            "keys": keys,
            "tenant_limits": stored.tenant_limits,
        } | configuration.shown(endpoint.settings)


class TenantQuery(PageQuery):
    """Filters of the tenant list."""

    parent: str | None = None


class TenantApi:
    """Handlers of the tenant routes with what they need."""

    def __init__(self, database: Database, tree: TenantTree) -> None:
        self._database = database
        self._tree = tree

    async def put_tenant(self, request: Request) -> Response:
        """Declare or change a tenant: 201 when it is new, else 200."""
        body = await body_of(request, TenantBody)
        slug = _slug(request)

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            await tenants.lock_tree(uow.connection)
            known = await tenants.get(uow.connection, slug)
            _check_scope(slug if known else None, body.parent)
            _check_version(request, known.version if known else 0)
            try:
                tenant = await self._tree.put(uow, known, slug, body, request.state.principal.subject)
            except Invalid as error:
                raise _named(error) from None
            path = await tenants.path(uow.connection, slug)
            return 200 if known else 201, tenant.model_dump(mode="json") | {"path": path}

        return await write_once(request, self._database, write)

    async def list_tenants(self, request: Request) -> Response:
        """List tenants by slug."""
        query = query_of(request, TenantQuery)
        async with self._database.connection() as connection:
            found = await tenants.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("slug",)))

    async def show_tenant(self, request: Request) -> Response:
        """Show one tenant with its path from the root; `ETag` is its version."""
        slug = _slug(request)
        async with self._database.connection() as connection:
            found = await tenants.get(connection, slug)
            path = await tenants.path(connection, slug)
        if found is None:
            raise not_found("tenant")
        response = json_response(found.model_dump(mode="json") | {"path": path})
        response.headers["etag"] = f'"{found.version}"'
        return response


def endpoint_routes(api: EndpointApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of endpoints."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    one = "/v1/endpoints/{endpoint_id}"
    return [
        Route("/v1/endpoints", viewer(api.list_endpoints)),
        Route("/v1/connections/{connection_id}/endpoints", operator(api.create_endpoint), methods=["POST"]),
        Route(one, viewer(api.show_endpoint)),
        Route(one, operator(api.change_endpoint), methods=["PATCH"]),
        Route(one, operator(api.remove_endpoint), methods=["DELETE"]),
        Route(f"{one}/code", operator(api.show_code)),
        Route(f"{one}/secrets", operator(api.add_key), methods=["POST"]),
        Route(f"{one}/secrets/{{key_id}}", operator(api.retire_key), methods=["DELETE"]),
        Route(f"{one}/rotate-url", operator(api.rotate_url), methods=["POST"]),
        Route(f"{one}/pause", operator(api.pause), methods=["POST"]),
        Route(f"{one}/resume", operator(api.resume), methods=["POST"]),
    ]


def tenant_routes(api: TenantApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of the tenants' tree."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    one = "/v1/tenants/{slug}"
    return [
        Route("/v1/tenants", viewer(api.list_tenants)),
        Route(one, viewer(api.show_tenant)),
        Route(one, operator(api.put_tenant), methods=["PUT"]),
    ]


def _slug(request: Request) -> str:
    slug: str = request.path_params["slug"]
    if _SLUG.fullmatch(slug) is None:
        raise invalid("slug", "lower-case letters, digits, - and _, at most 63, beginning with a letter or digit")
    return slug


def _check_scope(known: str | None, parent: str | None) -> None:
    """Raise a `Problem` 403 unless the caller's token is for the tenant as it is and for where it shall be.

    Otherwise a token for one tenant could move another one below it, or its own out of sight.
    """
    places = [parent] if known is None else [known, parent]
    if tenancy.current() != tenancy.EVERYONE and not all(place and tenancy.allows(place) for place in places):
        raise Problem(403, "wrong_tenant", "the token is not for this tenant")


def _check_version(request: Request, version: int) -> None:
    """Raise a `Problem` 412 when `If-Match` names another version than the present one; 0 stands for none."""
    expected = request.headers.get("if-match", "").strip().strip('"')
    if expected not in ("", "*", str(version)) or (expected == "*" and version == 0):
        raise Problem(412, "version_changed", f"If-Match: the version is {version}; read it again", version=version)


def _named(error: Invalid) -> Problem:
    return invalid(error.field or "body", error.detail, error.code)
