"""HTTP API of connections. Secrets are write-only.

A change may carry `If-Match` with the version that the caller has seen; another one by now is a 412.
"""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr
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
from contracts.errors import Invalid, Transient
from contracts.events.base import Slug
from contracts.ids import uuid7
from contracts.modes import Mode
from contracts.topics import Lane
from providers import oauth, registry
from providers.provider import Provider
from sync_worker.connections import methods
from sync_worker.connections.authorisation import CALLBACK_PATH, Callback, FlowDead
from sync_worker.connections.desk import Change, shown
from sync_worker.connections.parts import Parts
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.rotation import Rotations
from sync_worker.connections.states import ConnectionState
from sync_worker.models import Connection
from sync_worker.repository import connections, credentials, endpoints

# Ending a token at the provider is a courtesy: the connection is revoked whether it answers or not.
REVOKE_DEADLINE_S: Final = 5.0
MAX_QUERY_CHARS: Final = 4096
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class NewConnection(BaseModel):
    """Body of `POST /v1/connections`; which secrets and options a provider takes stands in its manifest."""

    model_config = _STRICT

    provider: Slug
    tenant: Slug
    # It becomes part of URLs and headers of provider calls, and Postgres has no NUL.
    account_ref: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    mode: Mode = "live"
    method: str = ""
    secrets: dict[str, SecretStr]
    options: dict[str, str] = Field(default_factory=dict)
    lane: Lane = Lane.STANDARD


class ConnectionPatch(BaseModel):
    """Body of `PATCH /v1/connections/{id}`: options over those that are set, and whether calls are made."""

    model_config = _STRICT

    options: dict[str, str] | None = None
    paused: bool | None = None


class NewCredentials(BaseModel):
    """Body of `PUT …/credentials`: the secrets that get a new value."""

    model_config = _STRICT

    secrets: dict[str, SecretStr]


class AuthorisationRequest(BaseModel):
    """Body of `POST …/authorize`; without `scopes` those of the manifest are asked for."""

    model_config = _STRICT

    scopes: tuple[str, ...] | None = None


class ConnectionQuery(PageQuery):
    """Filters of the connection list."""

    tenant: str | None = None
    provider: str | None = None
    mode: Mode | None = None
    state: str | None = None


class ConnectionApi:
    """Handlers of the connection routes with what they need."""

    def __init__(self, database: Database, parts: Parts, test: ConnectionTest, clock: Clock) -> None:
        self._database = database
        self._parts = parts
        self._desk = parts.desk
        self._test = test
        self._clock = clock

    async def create(self, request: Request) -> Response:
        """Connect an account: check the secrets, seal them, publish the endpoint. 201, or 409 if it is connected.

        A connection that a person has to authorise is AUTHORIZING until then.
        """
        new = await body_of(request, NewConnection)
        provider = _provider(new.provider)
        _check_tenant(new.tenant)
        given = {name: value.get_secret_value() for name, value in new.secrets.items()}
        method, options = self._checked(provider, new, given)
        actor = request.state.principal.subject
        await self._parts.vault.prepare_tenant(new.tenant)
        authorising = methods.code_flow(provider, method) is not None

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            connection = Connection(
                id=uuid7(),
                tenant=new.tenant,
                provider=new.provider,
                account_ref=new.account_ref,
                mode=new.mode,
                method=method,
                state=ConnectionState.AUTHORIZING if authorising else ConnectionState.LIVE,
                options=options,
                created_at=self._clock.now(),
                created_by=actor,
            )
            created = await self._desk.create(uow, connection, given, new.lane, actor)
            if created is None:
                raise Problem(409, "connection_exists", "account_ref: this account is connected already")
            listed = [{"id": one.endpoint.id, "url": one.endpoint.url} for one in created]
            return 201, shown(connection) | {"endpoints": listed, "secrets": sorted(given)}

        return await write_once(request, self._database, write)

    async def list_all(self, request: Request) -> Response:
        """List connections, oldest first."""
        query = query_of(request, ConnectionQuery)
        async with self._database.connection() as connection:
            found = await connections.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("id",)))

    async def show(self, request: Request) -> Response:
        """Show one connection with its endpoints and the names of its secrets; `ETag` is its version."""
        async with self._database.connection() as connection:
            found = await connections.get(connection, path_uuid(request, "connection_id"))
        if found is None:
            raise not_found("connection")
        response = json_response(found)
        response.headers["etag"] = f'"{found["version"]}"'
        return response

    async def change(self, request: Request) -> Response:
        """Set options, pause or resume. 409 for a state that cannot be paused or resumed."""
        patch = await body_of(request, ConnectionPatch)
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            found = await self._locked(request, uow)
            _check_version(request, found.version)
            try:
                await self._desk.change(uow, found, Change(patch.options, patch.paused), actor)
            except Invalid as error:
                raise invalid(error.field or "options", error.detail, error.code) from None
            uow.after_commit(lambda: self._parts.tokens.forget(found.id))
            return 200, shown(found)

        return await write_once(request, self._database, write)

    async def put_credentials(self, request: Request) -> Response:
        """Give secrets their next version. Those of deliveries are rotated at the endpoint, without a gap."""
        new = await body_of(request, NewCredentials)
        given = {name: value.get_secret_value() for name, value in new.secrets.items()}
        await self._prepare(request)
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            found = await self._locked(request, uow)
            _check_version(request, found.version)
            if found.state in (ConnectionState.REVOKED, ConnectionState.ERASED):
                raise Problem(409, "no_connection", "the connection is over")
            try:
                methods.check_change(_provider(found.provider), found.method, given)
            except Invalid as error:
                raise invalid(error.field or "secrets", error.detail, error.code) from None
            versions = await self._desk.replace_secrets(uow, found, given, actor)
            uow.after_commit(lambda: self._parts.tokens.forget(found.id))
            return 200, shown(found) | {"credentials": versions}

        return await write_once(request, self._database, write)

    async def revoke(self, request: Request) -> Response:
        """Revoke a connection: its secrets are deleted, its endpoints answer 404 from now on. Idempotent."""
        actor = request.state.principal.subject
        await self._prepare(request)
        async with self._database.unit_of_work() as uow:
            # Before the first lock of a row, which gives the transaction its place in the outbox: in turn with whoever
            # publishes one of its endpoints, so that the tombstones come last.
            await endpoints.serialise(uow.connection, path_uuid(request, "connection_id"))
            found = await self._locked(request, uow)
            ending = await self._ending_call(uow, found)
            await self._desk.end(uow, found, actor)
            uow.after_commit(lambda: self._parts.tokens.forget(found.id))
        if ending is not None:
            try:
                await self._parts.endpoint.post(found.provider, ending, deadline_s=REVOKE_DEADLINE_S)
            except (Invalid, Transient):
                return Response(status_code=204, headers={"patchbay-provider-revoked": "unknown"})
        return Response(status_code=204)

    async def test(self, request: Request) -> Response:
        """Make the manifest's cheap read with the connection's credentials: 200 with how that ended."""
        async with self._database.connection() as connection:
            found = await connections.by_id(connection, path_uuid(request, "connection_id"))
        if found is None:
            raise not_found("connection")
        return json_response({"mode": found.mode} | await self._test.run(found))

    async def authorize(self, request: Request) -> Response:
        """Begin an authorisation, the first or another one: the address to send a person to, for ten minutes."""
        asked = await body_of(request, AuthorisationRequest) if await request.body() else AuthorisationRequest()
        await self._prepare(request)
        async with self._database.unit_of_work() as uow:
            found = await self._locked(request, uow)
            actor = request.state.principal.subject
            url = await self._parts.authorisation.begin(uow, found.id, asked.scopes, actor)
        return json_response({"authorize_url": url, "mode": found.mode})

    async def callback(self, request: Request) -> Response:
        """Finish an authorisation. Unauthenticated: the state is the proof. 400 when the flow is dead."""
        if len(request.url.query) > MAX_QUERY_CHARS:
            raise Problem(400, "bad_callback", "the query is too long")
        pairs = request.query_params.multi_items()
        query = dict(pairs)
        if len(query) != len(pairs):
            raise Problem(400, "bad_callback", "a parameter is repeated")
        callback = Callback(query.get("state", ""), query.get("code", ""), query.get("error", ""), query)
        try:
            return json_response(shown(await self._parts.authorisation.finish(callback)))
        except FlowDead as dead:
            raise Problem(dead.status, dead.code, dead.detail) from None

    async def _prepare(self, request: Request) -> None:
        """Have what opens the connection's credentials before a transaction begins: a KMS is asked over HTTP."""
        async with self._database.connection() as connection:
            found = await credentials.snapshot(connection, path_uuid(request, "connection_id"))
        if found is not None:
            await self._parts.vault.prepare(found)

    async def _locked(self, request: Request, uow: UnitOfWork) -> Connection:
        found = await connections.lock(uow.connection, path_uuid(request, "connection_id"))
        if found is None:
            raise not_found("connection")
        return found

    async def _ending_call(self, uow: UnitOfWork, found: Connection) -> oauth.TokenCall | None:
        """Return the call that ends the connection's tokens at a provider that offers one."""
        method = methods.tokens_of(_provider(found.provider), found.method)
        known = await credentials.snapshot(uow.connection, found.id)
        if method is None or known is None or known.tokens is None:
            return None
        pair = self._parts.vault.open_tokens(known.tokens)
        token = pair.refresh_token or pair.access_token
        return oauth.revoke_call(method, self._parts.vault.open_all(known), token) if token else None

    def _checked(self, provider: Provider, new: NewConnection, given: dict[str, str]) -> tuple[str, dict[str, str]]:
        """Return method and options of a new connection; raises a `Problem` 422 that names the field."""
        try:
            method = methods.choose(provider, new.method, given)
            options = provider.manifest.resolve_options(new.options)
        except Invalid as error:
            raise invalid(error.field or "secrets", error.detail, error.code) from None
        flow = methods.code_flow(provider, method)
        if not new.account_ref and (flow is None or not (flow.account or flow.account_query)):
            raise invalid("account_ref", "the provider does not tell the account, so it has to be named")
        api = provider.manifest.api
        if new.mode == "sandbox" and method and api is not None and not api.sandbox_base_url:
            raise invalid("mode", f"{provider.slug} has no sandbox", "no_sandbox")
        return method, options


def connection_routes(api: ConnectionApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of connections."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    one = "/v1/connections/{connection_id}"
    return [
        Route("/v1/connections", operator(api.create), methods=["POST"]),
        Route("/v1/connections", viewer(api.list_all)),
        Route(one, viewer(api.show)),
        Route(one, operator(api.change), methods=["PATCH"]),
        Route(one, operator(api.revoke), methods=["DELETE"]),
        Route(f"{one}/test", operator(api.test), methods=["POST"]),
        Route(f"{one}/authorize", operator(api.authorize), methods=["POST"]),
        Route(f"{one}/credentials", operator(api.put_credentials), methods=["PUT"]),
        Route(CALLBACK_PATH, api.callback),
    ]


class RotationApi:
    """Handlers of the rotation routes with what they need."""

    def __init__(self, database: Database, rotations: Rotations) -> None:
        self._database = database
        self._rotations = rotations

    async def rotate(self, request: Request) -> Response:
        """Replace secrets without a failed call: 200 once the new ones are in use and the old ones drain.

        422 `credential_refused` when the provider does not take them, 503 when it does not say; nothing has changed
        then. A repeated request is a 409 `rotation_under_way` until the old ones have ended.
        """
        new = await body_of(request, NewCredentials)
        given = {name: value.get_secret_value() for name, value in new.secrets.items()}
        found = await self._visible(request)
        _check_version(request, found.version)
        try:
            done = await self._rotations.rotate(found.id, given, request.state.principal.subject)
        except Invalid as error:
            raise invalid(error.field or "secrets", error.detail, error.code) from None
        return json_response(
            shown(done.connection) | {"credentials": done.versions, "draining_until": done.draining_until}
        )

    async def list_versions(self, request: Request) -> Response:
        """List every version of the credentials of a connection with its state; their text never comes out."""
        found = await self._visible(request)
        async with self._database.connection() as connection:
            return json_response({"items": await credentials.versions(connection, found.id)})

    async def _visible(self, request: Request) -> Connection:
        async with self._database.connection() as connection:
            found = await connections.by_id(connection, path_uuid(request, "connection_id"))
        if found is None:
            raise not_found("connection")
        return found


def rotation_routes(api: RotationApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of credentials' versions and their rotation."""
    path = "/v1/connections/{connection_id}/credentials"
    return [
        Route(path, requires(tokens, Role.VIEWER)(api.list_versions)),
        Route(f"{path}/rotate", requires(tokens, Role.OPERATOR)(api.rotate), methods=["POST"]),
    ]


def _provider(slug: str) -> Provider:
    try:
        return registry.get(slug)
    except Invalid as error:
        raise Problem(404, error.code, error.detail, errors=[{"field": "provider", "rule": error.detail}]) from None


def _check_tenant(tenant: str) -> None:
    if not tenancy.allows(tenant):
        raise Problem(403, "wrong_tenant", "tenant: the token is not for this tenant")


def _check_version(request: Request, version: int) -> None:
    """Raise a `Problem` 412 when `If-Match` names another version than the present one."""
    expected = request.headers.get("if-match", "").strip().strip('"')
    if expected not in ("", "*", str(version)):
        raise Problem(412, "version_changed", f"If-Match: the version is {version}; read it again", version=version)
