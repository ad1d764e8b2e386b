"""HTTP API of the sync worker: connections, canonical payments, effects. Secrets are write-only."""

from __future__ import annotations

import base64
import secrets as random
from typing import Any, Final
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
from contracts.events.platform import AuditRecorded
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.ids import uuid7
from contracts.topics import PLATFORM_AUDIT, SYNC_ENDPOINTS, Lane
from providers import registry
from providers.provider import Provider
from sync_worker.models import Connection, Endpoint
from sync_worker.repository import connections, effects, payments
from sync_worker.vault import Vault

# 128 random bits in the URL: an endpoint cannot be guessed, and its provider's signature still has to verify.
ENDPOINT_ID_BYTES: Final = 16
FIRST_KEY_ID: Final = "k1"


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

    def __init__(self, database: Database, keyring: Keyring, clock: Clock, gateway_url: str) -> None:
        self._database = database
        self._keyring = keyring
        self._vault = Vault(keyring)
        self._clock = clock
        self._gateway_url = gateway_url

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
            endpoints = self._endpoints(connection, provider, given, new.lane)
            credentials = self._vault.seal(new.tenant, connection.id, given)
            if not await connections.insert(uow.connection, connection, credentials, endpoints):
                raise Problem(409, "connection_exists", "account_ref: this account is connected already")
            for endpoint in endpoints:
                self._publish(uow, connection, endpoint, given[provider.webhook.secret])
            self._audit(uow, actor, "connection.created", connection.tenant, connection.id)
            shown = [{"id": endpoint.id, "url": endpoint.url} for endpoint in endpoints]
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
            for endpoint in await connections.revoke(uow.connection, connection_id) or []:
                uow.tombstone(SYNC_ENDPOINTS, endpoint)
            if known.state == "live":
                actor = request.state.principal.subject
                self._audit(uow, actor, "connection.revoked", known.tenant, connection_id)
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

    def _endpoints(
        self, connection: Connection, provider: Provider, given: dict[str, str], lane: Lane
    ) -> list[Endpoint]:
        if provider.manifest.webhook is None or provider.webhook.secret not in given:
            return []
        endpoint_id = random.token_urlsafe(ENDPOINT_ID_BYTES)
        url = f"{self._gateway_url}/hooks/{endpoint_id}"
        return [Endpoint(id=endpoint_id, connection=connection.id, url=url, lane=lane, version=1)]

    def _publish(self, uow: UnitOfWork, connection: Connection, endpoint: Endpoint, secret: str) -> None:
        place = endpoint_secret_place(connection.tenant, endpoint.id, FIRST_KEY_ID)
        sealed = base64.b64encode(self._keyring.seal(secret, place)).decode()
        configured = EndpointConfigured(
            endpoint=endpoint.id,
            connection=connection.id,
            provider=connection.provider,
            tenant=connection.tenant,
            url=endpoint.url,
            lane=Lane(endpoint.lane),
            secrets=(SealedSecret(key_id=FIRST_KEY_ID, sealed=sealed),),
            options=connection.options,
            version=endpoint.version,
        )
        uow.emit(SYNC_ENDPOINTS, endpoint.id, configured, tenant=connection.tenant)

    def _audit(self, uow: UnitOfWork, actor: str, action: str, tenant: str, target: UUID) -> None:
        recorded = AuditRecorded(
            audit_id=uuid7(),
            tenant=tenant,
            service="sync-worker",
            actor=actor,
            action=action,
            target=f"connection/{target}",
            at=self._clock.now(),
        )
        uow.emit(PLATFORM_AUDIT, tenant, recorded, tenant=tenant)


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
