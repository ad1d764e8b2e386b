"""Keeps webhooks and watches registered at providers: made, renewed at half of their life, compared with their lists.

One worker of the fleet looks after one at a time, by a lease. Must never register again what an unanswered call may
have registered without looking first, where the provider has a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.database import Database
from chassis.sealing import Keyring
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from contracts.errors import Invalid, PatchbayError
from providers import feeds, registry
from providers.feeds import Drift, Registration
from providers.manifest.feeds import Inventory, SubscriptionSpec
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.audit import SERVICE, Audit
from sync_worker.catchup.calls import Asked, Caller, Stopped, ask
from sync_worker.catchup.due import Due
from sync_worker.catchup.metrics import DRIFTS, SUBSCRIPTION_CALLS, SUBSCRIPTIONS
from sync_worker.catchup.registering import urls_of, values_of
from sync_worker.models import Connection, Subscription
from sync_worker.repository import connections, endpoints, subscriptions
from sync_worker.repository.endpoints import Stored

log = logger(__name__)

TICK_S: Final = 10.0
WIDTH: Final = 4
# Longer than the calls of one subscription take together.
LEASE_S: Final = 120.0
MAX_PAGES: Final = 50
FAILED_RETRY: Final = timedelta(minutes=1)
REFUSED_RETRY: Final = timedelta(hours=1)
# What does not end is only compared with the provider's list; this is when it would be looked at without one.
ENDLESS: Final = timedelta(days=365)


@dataclass(slots=True)
class _Work:
    """A subscription under a lease, with everything that its requests need."""

    one: Subscription
    connection: Connection
    provider: Provider
    spec: SubscriptionSpec
    stored: Stored
    values: Mapping[str, Any]


class Subscriptions:
    """The keeper. One per process; `run` it in the background, `wake` it when something is wanted."""

    def __init__(
        self,
        database: Database,
        path: Caller,
        keyring: Keyring,
        clock: Clock,
        *,
        owner: str,
        check_every_s: float = 6 * 3600.0,
    ) -> None:
        self._database = database
        self._path = path
        self._keyring = keyring
        self._clock = clock
        self._owner = owner
        self._check_every = timedelta(seconds=check_every_s)
        self._audit = Audit(clock)
        self._due = Due("subscriptions", TICK_S)

    def wake(self) -> None:
        """Look for due work at once."""
        self._due.wake()

    async def run(self) -> None:
        """Look after subscriptions until cancelled."""
        await self._due.run(self.step)

    async def step(self) -> int:
        """Do what is due of some subscriptions; returns how many there were."""
        now = self._clock.now()
        async with self._database.connection() as connection:
            await subscriptions.forget_ended(connection)
            found = await subscriptions.due(connection, now, now - self._check_every, WIDTH)
            for (slug, state), number in (await subscriptions.counts(connection, now)).items():
                gauge(SUBSCRIPTIONS).labels(slug, state).set(number)
        done = await asyncio.gather(*(self.keep(*one) for one in found), return_exceptions=True)
        for each in done:
            if isinstance(each, BaseException):
                raise each
        return sum(each is True for each in done)

    async def keep(self, connection_id: UUID, stream: str) -> bool:
        """Do what is due of one subscription; False when somebody else does."""
        async with self._database.connection() as connection:
            one = await subscriptions.claim(connection, connection_id, stream, self._owner, lease_s=LEASE_S)
        if one is None:
            return False
        drifts: list[Drift] | None = None
        try:
            work = await self._open(one)
            if one.state == "ending":
                await self._end(work)
                return True
            drifts = await self._look_after(work)
            one.error = ""
        except Stopped as stopped:
            one.error = f"{stopped.outcome}: {stopped.detail}".rstrip(": ")
            one.due_at = self._clock.now() + _retry_in(stopped)
            log.warning("subscription_not_kept", stream=stream, why=stopped.outcome, detail=stopped.detail)
        await self._store(one, drifts)
        return True

    async def _open(self, one: Subscription) -> _Work:
        async with self._database.connection() as connection:
            found = await connections.by_id(connection, one.connection)
            stored = await endpoints.load(connection, [one.endpoint])
        if found is None or not stored:
            raise Stopped("ours", "the connection or its endpoint is gone", REFUSED_RETRY)
        provider = registry.get(found.provider)
        spec = provider.manifest.subscription(one.stream)
        if spec is None:
            raise Stopped("ours", "the provider has no such subscription any more", REFUSED_RETRY)
        values = values_of(one, spec, stored[0], self._keyring, self._clock.now())
        return _Work(one, found, provider, spec, stored[0], values)

    async def _look_after(self, work: _Work) -> list[Drift] | None:
        """Register, renew or compare; returns how the provider's list differs, None without a look at it.

        Raises `Stopped`.
        """
        one, now = work.one, self._clock.now()
        if one.state == "wanted":
            await self._register(work)
            return None
        if one.due_at <= now:
            await self._renew(work)
            return None
        if work.spec.list is None:
            one.checked_at = now
            return None
        listed = await self._inventory(work)
        one.checked_at = now
        drifts = feeds.compare({one.ext_id: one.expires_at}, listed, urls_of(work.stored))
        for drift in drifts:
            if drift.kind == "missing":
                one.state, one.ext_id, one.due_at = "wanted", "", now
            elif drift.kind == "expiry" and drift.found is not None:
                self._take(one, drift.found)
        return drifts

    async def _register(self, work: _Work) -> None:
        """Register, or adopt what an earlier attempt has registered without hearing of it."""
        if work.spec.list is not None:
            own = [found for found in await self._inventory(work) if found.url == work.values["url"]]
            if own:
                self._take(work.one, own[-1])
                return
        response = await self._ask(
            work, "create", lambda account: feeds.create_request(work.spec, account, work.values)
        )
        self._take(work.one, _registration(work, response))

    async def _renew(self, work: _Work) -> None:
        """Prolong, or make another one where the vendor cannot, or knows it no more."""
        renewing = work.spec.renew is not None
        try:
            if renewing:
                build = feeds.renew_request
                response = await self._ask(
                    work, "renew", lambda account: _there(build(work.spec, account, work.values))
                )
                self._take(work.one, _registration(work, response))
                return
        except Stopped as stopped:
            if stopped.outcome != "refused":
                raise
        if work.spec.lifetime_s is None:
            work.one.due_at = self._clock.now() + ENDLESS
            return
        await self._register(work)

    async def _end(self, work: _Work) -> None:
        """Take the subscription away and forget it; raises `Stopped` unless the provider says that it is gone."""
        one = work.one
        if one.ext_id and work.spec.delete is not None:
            build = feeds.delete_request
            try:
                await self._ask(work, "delete", lambda account: _there(build(work.spec, account, work.values)))
            except Stopped as stopped:
                if stopped.outcome != "refused":
                    raise
        async with self._database.connection() as connection:
            await subscriptions.delete(connection, one)

    async def _inventory(self, work: _Work) -> list[Registration]:
        """Return everything that is registered, all pages of it; raises `Stopped`."""
        found: list[Registration] = []
        page, inventory = "", work.spec.list
        if inventory is None:
            return found
        for _ in range(MAX_PAGES):
            build = partial(_list_request, inventory, page)
            response = await self._ask(work, "list", build)
            try:
                more, page = feeds.parse_inventory(work.spec, response)
            except PatchbayError as error:
                raise Stopped(error.code, error.detail, FAILED_RETRY) from None
            found += more
            if not page:
                return found
        raise Stopped("truncated", "the list of subscriptions does not end", REFUSED_RETRY)

    async def _ask(self, work: _Work, act: str, build: Callable[[Account], HttpRequest]) -> HttpResponse:
        asked = Asked(f"subscription.{act}", work.spec.timeout_s, writes=act == "create")
        slug = work.provider.slug
        try:
            _, response = await ask(self._path, work.provider, work.connection, asked, build)
        except Stopped as stopped:
            counter(SUBSCRIPTION_CALLS).labels(slug, act, stopped.outcome).inc()
            raise
        counter(SUBSCRIPTION_CALLS).labels(slug, act, "success").inc()
        return response

    def _take(self, one: Subscription, found: Registration) -> None:
        """Note what the provider says, and when half of the life that is left will be over."""
        now = self._clock.now()
        one.state, one.ext_id, one.expires_at = "active", found.ext_id, found.expires_at
        one.url, one.more = found.url or one.url, dict(found.more) or one.more
        one.due_at = now + (max((found.expires_at - now) / 2, FAILED_RETRY) if found.expires_at else ENDLESS)

    async def _store(self, one: Subscription, drifts: list[Drift] | None) -> None:
        """Write what was done, and raise the alarm about drift that was not known yet; nothing if the lease is lost."""
        news = [drift for drift in drifts or () if f"{drift.kind} {drift.ext_id}" not in one.drift]
        if drifts is not None:
            one.drift = ", ".join(f"{drift.kind} {drift.ext_id}" for drift in drifts)
        async with self._database.unit_of_work() as uow:
            provider = await connections.by_id(uow.connection, one.connection)
            if not await subscriptions.save(uow.connection, one) or provider is None:
                return
            for drift in news:
                log.warning("subscription_drifted", stream=one.stream, kind=drift.kind)
                counter(DRIFTS).labels(provider.provider, drift.kind).inc()
                target = f"connection/{one.connection}"
                self._audit.record(
                    uow,
                    SERVICE,
                    "subscription.drifted",
                    tenant=one.tenant,
                    target=target,
                    stream=one.stream,
                    kind=drift.kind,
                    ext_id=drift.ext_id,
                )


def _list_request(inventory: Inventory, page: str, account: Account) -> HttpRequest:
    return feeds.list_request(inventory, account, page)


def _registration(work: _Work, response: HttpResponse) -> Registration:
    chosen = work.one.ext_id or str(work.values["id"])
    try:
        return feeds.parse_registration(work.spec, response, chosen)
    except PatchbayError as error:
        raise Stopped(error.code, error.detail, FAILED_RETRY) from None


def _there(request: HttpRequest | None) -> HttpRequest:
    if request is None:
        raise Invalid("no_template", "the provider documents no such request")
    return request


def _retry_in(stopped: Stopped) -> timedelta:
    if stopped.outcome in ("missing_scope", "refused", "credential", "redirected", "ours"):
        return REFUSED_RETRY
    return max(stopped.retry_in or FAILED_RETRY, timedelta(seconds=30))
