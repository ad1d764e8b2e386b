"""HTTP API of the sync worker: connections, canonical payments, effects. Secrets are write-only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.paging import PageQuery, page
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, path_uuid, query_of
from chassis.sealing import Keyring
from contracts.errors import Invalid
from contracts.events.base import Slug
from contracts.ids import uuid7
from contracts.topics import SYNC_ENDPOINTS, Lane
from providers import registry
from providers.provider import Provider
from sync_worker.audit import Audit
from sync_worker.connections.vault import Vault
from sync_worker.endpoints.configuration import EndpointSettings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.models import Connection
from sync_worker.repository import connections, effects, endpoints, payments, tenants
from sync_worker.repository.endpoints import Stored


class NewConnection(BaseModel):
    """Body of `POST /v1/connections`; which secrets and options a provider takes stands in its manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Slug
    tenant: Slug
    # It becomes part of URLs and headers of provider calls, and Postgres has no NUL.
    account_ref: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    secrets: dict[str, SecretStr]
    options: dict[str, str] = Field(default_factory=dict)
    lane: Lane = Lane.STANDARD


class ConnectionQuery(PageQuery):
    """Filters of the connection list."""

    tenant: str | None = None
    provider: str | None = None
    state: str | None = None


class PaymentQuery(PageQuery):
    """Filters of the payment list."""

    tenant: str | None = None
    provider: str | None = None
    status: str | None = None
    external_id: str | None = None


class EffectQuery(PageQuery):
    """Filters of the effect list."""

    saga_id: UUID | None = None
    tenant: str | None = None
    state: str | None = None


class Api:
    """Handlers of the routes with what they need."""

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, desk: Endpoints) -> None:
        self._database = database
        self._vault = Vault(keyring)
        self._clock = clock
        self._desk = desk
        self._audit = Audit(clock)

    async def create_connection(self, request: Request) -> Response:
        """Connect an account: check the secrets, seal them, publish the endpoint. 201, or 409 if it is connected."""
        new = await body_of(request, NewConnection)
        provider = _provider(new.provider)
        given = {name: value.get_secret_value() for name, value in new.secrets.items()}
        try:
            provider.check_secrets(given)
            options = provider.manifest.resolve_options(new.options)
        except Invalid as error:
            raise invalid(error.field or "secrets", error.detail, error.code) from None
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            connection = Connection(
                id=uuid7(),
                tenant=new.tenant,
                provider=new.provider,
                account_ref=new.account_ref,
                state="live",
                options=options,
                created_at=self._clock.now(),
                created_by=actor,
            )
            # Before the tenant's row: a change of the tree locks the tree first and rows after it.
            await tenants.lock_tree(uow.connection, shared=True)
            await tenants.ensure(uow.connection, connection.tenant)
            credentials = self._vault.seal(new.tenant, connection.id, given)
            if not await connections.insert(uow.connection, connection, credentials):
                raise Problem(409, "connection_exists", "account_ref: this account is connected already")
            self._record(uow, actor, "connection.created", connection)
            created: list[Stored] = []
            if provider.manifest.webhook is not None and provider.webhook.secret in given:
                settings = EndpointSettings(lane=new.lane)
                secret = given[provider.webhook.secret]
                created.append(await self._desk.create(uow, connection, secret, settings, actor))
            shown = [{"id": one.endpoint.id, "url": one.endpoint.url} for one in created]
            return 201, _shown(connection) | {"endpoints": shown, "secrets": sorted(given)}

        return await write_once(request, self._database, write)

    async def list_connections(self, request: Request) -> Response:
        """List connections, oldest first."""
        query = query_of(request, ConnectionQuery)
        async with self._database.connection() as connection:
            found = await connections.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("id",)))

    async def show_connection(self, request: Request) -> Response:
        """Show one connection with its endpoints and the names of its secrets."""
        async with self._database.connection() as connection:
            found = await connections.get(connection, path_uuid(request, "connection_id"))
        if found is None:
            raise not_found("connection")
        return json_response(found)

    async def revoke_connection(self, request: Request) -> Response:
        """Revoke a connection: its secrets are deleted, its endpoints answer 404 from now on. Idempotent."""
        connection_id = path_uuid(request, "connection_id")
        async with self._database.unit_of_work() as uow:
            known = await connections.by_id(uow.connection, connection_id)
            if known is None:
                raise not_found("connection")
            # In turn with whoever publishes one of its endpoints, so that the tombstones come last.
            await endpoints.serialise(uow.connection, connection_id)
            revoked = await connections.revoke(uow.connection, connection_id)
            if revoked is not None:
                for endpoint in revoked:
                    uow.tombstone(SYNC_ENDPOINTS, endpoint)
                self._record(uow, request.state.principal.subject, "connection.revoked", known)
        return Response(status_code=204)

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

    async def list_effects(self, request: Request) -> Response:
        """List effects at providers by key."""
        query = query_of(request, EffectQuery)
        async with self._database.connection() as connection:
            found = await effects.search(connection, query.filters(), query.cursor(1), query.limit + 1)
        return json_response(page(found, query.limit, ("key",)))

    def _record(self, uow: UnitOfWork, actor: str, action: str, connection: Connection) -> None:
        target = f"connection/{connection.id}"
        self._audit.record(uow, actor, action, tenant=connection.tenant, target=target)


def routes(api: Api, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of the sync worker."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    one = "/v1/connections/{connection_id}"
    return [
        Route("/v1/connections", operator(api.create_connection), methods=["POST"]),
        Route("/v1/connections", viewer(api.list_connections)),
        Route(one, viewer(api.show_connection)),
        Route(one, operator(api.revoke_connection), methods=["DELETE"]),
        Route("/v1/entities/payments", viewer(api.list_payments)),
        Route("/v1/entities/payments/{payment_id}", viewer(api.show_payment)),
        Route("/v1/effects", viewer(api.list_effects)),
    ]


def _provider(slug: str) -> Provider:
    try:
        return registry.get(slug)
    except Invalid as error:
        raise invalid("provider", error.detail, error.code) from None


def _shown(connection: Connection) -> dict[str, Any]:
    shown = connection.model_dump(mode="json")
    return {name: shown[name] for name in ("id", "tenant", "provider", "account_ref", "state", "options", "created_at")}
