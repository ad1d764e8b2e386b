"""HTTP API of catch-up and subscriptions of a connection."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from chassis.clock import Clock
from chassis.db import connection as db
from chassis.db.database import Database, UnitOfWork
from chassis.http.auth import Role, TokenVerifier, requires
from chassis.http.idempotency import write_once
from chassis.http.problems import Problem, body_of, invalid, json_response, not_found, path_uuid
from contracts.errors import Invalid
from providers import registry
from providers.manifest.feeds import FeedSpec
from sync_worker.audit import Audit
from sync_worker.catchup import registering
from sync_worker.catchup.subscriptions import Subscriptions
from sync_worker.connections.states import CALLABLE
from sync_worker.models import Connection
from sync_worker.repository import connections, cursors, subscriptions

_STRICT = ConfigDict(extra="forbid", frozen=True)


class NewRun(BaseModel):
    """Body of `POST …/catch-up`, which may be empty: with `since` what was read already is read again from there."""

    model_config = _STRICT

    since: AwareDatetime | None = None


class NewSubscription(BaseModel):
    """Body of `POST …/subscriptions`: what to register at the provider, for which endpoint of the connection."""

    model_config = _STRICT

    stream: str = Field(max_length=64)
    parameters: dict[str, str] = Field(default_factory=dict)
    endpoint: str = ""


class CatchUpApi:
    """Handlers with what they need. `wake` tells the engine that something is due."""

    def __init__(
        self, database: Database, clock: Clock, wake: Callable[[], None], keeper: Subscriptions | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._keeper = keeper
        self._audit = Audit(clock)

    async def show(self, request: Request) -> Response:
        """Show how far each feed of a connection was read, what that found and cost, and when it is read next."""
        async with self._database.connection() as connection:
            found = await _known(connection, path_uuid(request, "connection_id"))
            listed = await cursors.of_connection(connection, found.id)
        feeds = {feed.name: feed for feed in registry.get(found.provider).manifest.feeds}
        now = self._clock.now()
        return json_response({"items": [_shown(one, feeds.get(one["stream"]), now) for one in listed]})

    async def start(self, request: Request) -> Response:
        """Read the feeds of a connection now: 202. 409 for a provider without feeds, or one that may not be called."""
        new = await body_of(request, NewRun) if await request.body() else NewRun()
        actor = request.state.principal.subject

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            found = await _known(uow.connection, path_uuid(request, "connection_id"))
            feeds = [feed.name for feed in registry.get(found.provider).manifest.feeds]
            if not feeds:
                raise Problem(409, "no_feed", f"{found.provider} keeps no list of its events that could be read")
            if found.state not in CALLABLE or not found.method:
                raise Problem(409, "no_connection", "the provider may not be called with this connection")
            now = self._clock.now()
            if new.since is not None and new.since > now:
                raise invalid("since", "is in the future")
            await cursors.ensure(uow.connection, {found.provider: feeds}, now)
            await cursors.hasten(uow.connection, found.id, now, new.since)
            since = new.since.astimezone(UTC).isoformat() if new.since else ""
            target = f"connection/{found.id}"
            self._audit.record(uow, actor, "catch_up.requested", tenant=found.tenant, target=target, since=since)
            uow.after_commit(self._wake)
            return 202, {"connection": str(found.id), "streams": feeds}

        return await write_once(request, self._database, write)

    async def list_subscriptions(self, request: Request) -> Response:
        """Show what is registered at the provider for a connection: state, expiry, renewal, drift, last event."""
        async with self._database.connection() as connection:
            found = await _known(connection, path_uuid(request, "connection_id"))
            listed = await subscriptions.of_connection(connection, found.id)
        return json_response({"items": listed})

    async def subscribe(self, request: Request) -> Response:
        """Register a webhook or watch at the provider: 202, it happens in the background. 409 if it is registered."""
        new = await body_of(request, NewSubscription)
        actor = request.state.principal.subject
        wish = registering.Wish(new.stream, new.parameters, new.endpoint, actor)

        async def write(uow: UnitOfWork) -> tuple[int, dict[str, Any]]:
            found = await _known(uow.connection, path_uuid(request, "connection_id"))
            try:
                made = await registering.wanted(uow.connection, found, wish, self._clock.now())
            except Invalid as error:
                raise invalid(error.field or "stream", error.detail, error.code) from None
            if not await subscriptions.insert(uow.connection, made):
                raise Problem(409, "subscription_exists", "stream: it is registered already, or is about to be")
            target = f"connection/{found.id}"
            self._audit.record(
                uow, actor, "subscription.requested", tenant=found.tenant, target=target, stream=new.stream
            )
            uow.after_commit(self._wake_keeper)
            return 202, {"connection": str(found.id), "stream": made.stream, "state": made.state}

        return await write_once(request, self._database, write)

    async def unsubscribe(self, request: Request) -> Response:
        """Take a subscription away, at the provider as well where it can be: 202. 404 for one that is unknown."""
        actor = request.state.principal.subject
        async with self._database.unit_of_work() as uow:
            found = await _known(uow.connection, path_uuid(request, "connection_id"))
            stream = request.path_params["stream"]
            if not await subscriptions.end(uow.connection, found.id, stream, self._clock.now()):
                raise not_found("subscription")
            target = f"connection/{found.id}"
            self._audit.record(uow, actor, "subscription.ended", tenant=found.tenant, target=target, stream=stream)
            uow.after_commit(self._wake_keeper)
        return json_response({"connection": str(found.id), "stream": stream, "state": "ending"}, 202)

    def _wake_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.wake()


def catch_up_routes(api: CatchUpApi, tokens: TokenVerifier) -> list[BaseRoute]:
    """Return the routes of catch-up and subscriptions."""
    viewer, operator = requires(tokens, Role.VIEWER), requires(tokens, Role.OPERATOR)
    one = "/v1/connections/{connection_id}"
    return [
        Route(f"{one}/catch-up", viewer(api.show)),
        Route(f"{one}/catch-up", operator(api.start), methods=["POST"]),
        Route(f"{one}/subscriptions", viewer(api.list_subscriptions)),
        Route(f"{one}/subscriptions", operator(api.subscribe), methods=["POST"]),
        Route(f"{one}/subscriptions/{{stream}}", operator(api.unsubscribe), methods=["DELETE"]),
    ]


async def _known(connection: db.Connection, connection_id: UUID) -> Connection:
    found = await connections.by_id(connection, connection_id)
    if found is None:
        raise not_found("connection")
    return found


def _shown(row: dict[str, Any], feed: FeedSpec | None, now: datetime) -> dict[str, Any]:
    """Return a cursor with what its feed allows; a run that is under way shows the span that it reads."""
    today = row["calls_day"] == now.astimezone(UTC).date()
    done = row["done"]
    return {
        "stream": row["stream"],
        "running": bool(row["running"]),
        "complete_until": done[-1]["until"] if done else None,
        "done": done,
        "reading": {"from": row["window_from"], "until": row["window_until"]} if row["window_from"] else None,
        "reaches_back_to": now - timedelta(hours=feed.retention_h) if feed else None,
        "found": row["found"],
        "missed": row["missed"],
        "calls_today": row["calls"] if today else 0,
        "calls_budget": feed.calls_per_day if feed else 0,
        "last_run_at": row["last_run_at"],
        "next_run_at": row["due_at"],
        "error": row["error"],
    }
