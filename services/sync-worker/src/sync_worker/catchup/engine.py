"""Reads providers' feeds for what webhooks did not bring: on a schedule, and at once when a source fell silent.

A page's events and the cursor that covers them commit together, so a crash costs a page. Must never take a refusal, a
cut-off answer or an unreadable one for "there is nothing", nor spend more calls a day than a feed's budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from chassis.claims import ClaimStore
from chassis.clock import Clock
from chassis.db import inbox
from chassis.db.database import Database
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter, gauge
from contracts.errors import Invalid, PatchbayError
from providers import feeds, registry
from providers.feeds import Window
from providers.manifest.feeds import FeedSpec
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.catchup.calls import Asked, Caller, Stopped, ask
from sync_worker.catchup.deliveries import Fetched, Target, fetched
from sync_worker.catchup.due import Due
from sync_worker.catchup.metrics import BEHIND, CALLS, EVENTS, RUNS
from sync_worker.connections.states import CALLABLE
from sync_worker.limiter.policies import Turn
from sync_worker.models import Connection
from sync_worker.repository import connections, cursors, endpoints
from sync_worker.repository.cursors import Lease

log = logger(__name__)

# The consumer whose inbox knows what did arrive, and the name under which what we delivered is remembered beside it.
DELIVERIES: Final = "sync-worker-deliveries"
DELIVERED: Final = "sync-worker-catchup"
TICK_S: Final = 5.0
LEASE_S: Final = 120.0
# sync-worker.md §4.3, rule 3: no feed is asked more often than this, whatever is configured.
LEAST_INTERVAL_S: Final = 30.0
# A provider that refuses needs a person; it is asked again this often, in case one has come.
REFUSED_RETRY: Final = timedelta(hours=1)
FAILED_RETRY: Final = timedelta(minutes=1)
# A window is never split below this: then the feed cannot be read completely, and that is said.
LEAST_WINDOW: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Timing:
    """How often each feed is read, how many are read at once by this process, and how long a silent worker's stays."""

    interval_s: float = 900.0
    width: int = 4
    lease_s: float = LEASE_S


@dataclass(slots=True)
class _Run:
    """One run: what it reads, for whom, and under which lease."""

    lease: Lease
    connection: Connection
    provider: Provider
    feed: FeedSpec
    target: Target


class CatchUp:
    """The engine. One per process; `run` it in the background, `wake` it when something became due."""

    def __init__(
        self,
        database: Database,
        path: Caller,
        claims: ClaimStore,
        clock: Clock,
        *,
        owner: str,
        timing: Timing | None = None,
    ) -> None:
        self._database = database
        self._path = path
        self._claims = claims
        self._clock = clock
        self._owner = owner
        self._timing = timing or Timing()
        self._due = Due("catch-up", TICK_S)

    def wake(self) -> None:
        """Look for due work at once."""
        self._due.wake()

    async def run(self) -> None:
        """Read what is due until cancelled."""
        await self._due.run(self.step)

    async def step(self) -> int:
        """Read some of the feeds that are due, to their end; returns how many there were."""
        now = self._clock.now()
        names = {one.slug: [feed.name for feed in one.manifest.feeds] for one in registry.all_providers()}
        async with self._database.connection() as connection:
            await cursors.ensure(connection, {slug: found for slug, found in names.items() if found}, now)
            found = await cursors.due(connection, now, self._timing.width)
            behind = await cursors.behind(connection)
        for slug, until in behind.items():
            gauge(BEHIND).labels(slug).set(max((now - until).total_seconds(), 0.0))
        done = await asyncio.gather(*(self.read(*one) for one in found), return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                raise one
        return sum(one is True for one in done)

    async def read(self, connection_id: UUID, stream: str) -> bool:
        """Read one feed to its end if it is due and nobody else does; tells whether it was read."""
        async with self._database.connection() as connection:
            lease = await cursors.claim(
                *(connection, connection_id, stream, self._owner), now=self._clock.now(), lease_s=self._timing.lease_s
            )
        if lease is None:
            return False
        try:
            await self._windows(await self._open(lease))
            stopped = Stopped("done", "", None)
        except Stopped as reason:
            stopped = reason
        slug = lease.provider
        counter(RUNS).labels(slug, stopped.outcome).inc()
        if stopped.outcome == "lost":
            return True
        if stopped.outcome != "done":
            log.warning("catch_up_stopped", provider=slug, stream=stream, why=stopped.outcome, detail=stopped.detail)
        error = f"{stopped.outcome}: {stopped.detail}".rstrip(": ") if stopped.outcome != "done" else ""
        async with self._database.connection() as connection:
            await cursors.finish(connection, lease, self._again_at(stopped), error)
        return True

    async def _open(self, lease: Lease) -> _Run:
        """Return what the cursor is about; raises `Stopped` when there is nobody to read for."""
        one = lease.cursor
        async with self._database.connection() as connection:
            found = await connections.by_id(connection, one.connection)
            stored = await endpoints.load(connection, await endpoints.of_connection(connection, one.connection))
        live = next((each for each in stored if each.endpoint.state == "live"), None)
        if found is None or found.state not in CALLABLE:
            raise Stopped("no_connection", "the connection may not be called", None)
        if live is None:
            raise Stopped("no_endpoint", "the connection has no live endpoint to deliver to", None)
        try:
            provider, target = registry.get(found.provider), Target.of(live)
        except Invalid as error:
            raise Stopped("ours", error.detail, None) from None
        feed = provider.manifest.feed(one.stream)
        if feed is None:
            raise Stopped("ours", "the provider has no such feed any more", None)
        return _Run(lease, found, provider, feed, target)

    async def _windows(self, run: _Run) -> None:
        """Read the spans that are missing, oldest first, a page at a time; raises `Stopped`."""
        now = self._clock.now()
        await self._enable(run)
        keep_since = now - timedelta(hours=run.feed.retention_h)
        horizon = Window(max(keep_since, run.connection.created_at), now - timedelta(seconds=run.feed.lag_s))
        while horizon.since < horizon.until:
            window = await self._window(run, horizon)
            if window is None:
                return
            await self._pages(run, window, keep_since)

    async def _window(self, run: _Run, horizon: Window) -> Window | None:
        """Return the window that was begun, if it can still be read, or the oldest gap."""
        one = run.lease.cursor
        if one.window_from is not None and one.window_until is not None and one.window_from >= horizon.since:
            return Window(one.window_from, one.window_until)
        async with self._database.connection() as connection:
            window = await cursors.gap(connection, run.lease, horizon)
        one.page_cursor, one.page_expires_at = "", None
        one.window_from, one.window_until = (window.since, window.until) if window else (None, None)
        return window

    async def _pages(self, run: _Run, window: Window, keep_since: datetime) -> None:
        one, paging = run.lease.cursor, run.feed.paging
        while True:
            now = self._clock.now()
            if one.page_expires_at is not None and one.page_expires_at <= now:
                # The vendor has forgotten the page: the window is read again, which costs calls and harms nobody.
                one.page_cursor, one.page_expires_at = "", None
            begun = one.page_cursor
            account, response = await self._page(run, window, begun)
            if response is None:
                one.page_cursor, one.page_expires_at = "", None
                continue
            page, messages = await self._parsed(run, account, response)
            if page.full:
                await self._split(run, window)
                return
            one.page_cursor = page.next
            if page.next and paging.expires_s is not None:
                one.page_expires_at = now + timedelta(seconds=paging.expires_s)
            await self._commit(run, messages, window if not page.next else None, keep_since)
            if not page.next:
                one.window_from = one.window_until = None
                return
            if page.next == begun:
                raise Stopped("unreadable_answer", "a page leads to itself", FAILED_RETRY)

    async def _page(self, run: _Run, window: Window, page: str) -> tuple[Account, HttpResponse | None]:
        """Return a page's answer, or None when the vendor does not know the page any more; raises `Stopped`."""
        try:
            return await self._ask(run, lambda account: feeds.page_request(run.feed, account, window, page))
        except Stopped as reason:
            if page and reason.outcome == "refused":
                return Account("", {}), None
            raise

    async def _parsed(self, run: _Run, account: Account, response: HttpResponse) -> tuple[feeds.Page, list[Fetched]]:
        try:
            page = feeds.parse_page(run.provider, run.feed, account, response)
            now = self._clock.now()
            found = [one for each in page.deliveries for one in await fetched(run.target, each, self._claims, now)]
        except PatchbayError as error:
            raise Stopped(error.code, error.detail, FAILED_RETRY) from None
        return page, found

    async def _commit(self, run: _Run, messages: list[Fetched], whole: Window | None, keep_since: datetime) -> None:
        """Deliver what is missing, and move the cursor, in one transaction; raises `Stopped` if the lease is lost."""
        one = run.lease.cursor
        ids = list(dict.fromkeys(message.known_as for message in messages))
        async with self._database.unit_of_work() as uow:
            arrived = await cursors.arrived(uow.connection, DELIVERIES, ids)
            missed = await inbox.claim(uow.connection, DELIVERED, [name for name in ids if name not in arrived])
            for message in messages:
                if message.known_as in missed:
                    missed.discard(message.known_as)
                    uow.publish(message.topic, message.key, message.envelope)
                    one.missed += 1
            before = one.found
            one.found += len(ids)
            if whole is not None:
                kept = await cursors.complete(uow.connection, run.lease, whole, keep_since)
            else:
                kept = await cursors.save(uow.connection, run.lease)
            if not kept:
                one.found = before
                raise Stopped("lost", "another worker reads on", None)
            new = len(ids) - len(arrived)
            uow.after_commit(lambda: _count(run.provider.slug, len(arrived), new))

    async def _split(self, run: _Run, window: Window) -> None:
        """Read the older half first, because an answer may have been cut off; raises `Stopped` if that cannot be."""
        one, middle = run.lease.cursor, window.since + (window.until - window.since) / 2
        if not run.feed.bounded or middle - window.since < LEAST_WINDOW:
            raise Stopped(
                "truncated", "the answer has as many items as it can have; some may be missing", REFUSED_RETRY
            )
        one.window_until, one.page_cursor, one.page_expires_at = middle, "", None
        async with self._database.connection() as connection:
            if not await cursors.save(connection, run.lease):
                raise Stopped("lost", "another worker reads on", None)

    async def _enable(self, run: _Run) -> None:
        """Let the vendor begin to keep events, once; raises `Stopped`."""
        feed, one = run.feed, run.lease.cursor
        if feed.enable is None or one.enabled_at is not None:
            return

        def build(account: Account) -> HttpRequest:
            asked = feeds.enable_request(feed, account)
            if asked is None:
                raise Invalid("no_template", "the feed needs no enabling")
            return asked

        await self._ask(run, build)
        one.enabled_at = self._clock.now()
        async with self._database.connection() as connection:
            if not await cursors.save(connection, run.lease):
                raise Stopped("lost", "another worker reads on", None)

    async def _ask(self, run: _Run, build: Callable[[Account], HttpRequest]) -> tuple[Account, HttpResponse]:
        """Spend one call of the budget; raises `Stopped`."""
        today = self._clock.now().astimezone(UTC).date()
        async with self._database.connection() as connection:
            spent = await cursors.spend(
                *(connection, run.lease, today), budget=run.feed.calls_per_day, lease_s=self._timing.lease_s
            )
        if spent != "spent":
            raise Stopped(spent, "the calls of this day are spent" if spent == "budget" else "", None)
        counter(CALLS).labels(run.provider.slug).inc()
        asked = Asked(f"feed.{run.feed.name}", run.feed.timeout_s, run.feed.quota, turn=self._turn(run))
        return await ask(self._path, run.provider, run.connection, asked, build)

    def _turn(self, run: _Run) -> Turn:
        """Return whose turn a call is: what has just happened goes before the gaps of an outage or a first connection.

        A window that begins within the last two rounds is an ordinary pull.
        """
        since = run.lease.cursor.window_from
        recent = timedelta(seconds=2 * max(self._timing.interval_s, LEAST_INTERVAL_S))
        return "pull" if since is None or self._clock.now() - since <= recent else "reconcile"

    def _again_at(self, stopped: Stopped) -> datetime:
        now = self._clock.now()
        interval = timedelta(seconds=max(self._timing.interval_s, LEAST_INTERVAL_S))
        if stopped.outcome == "budget":
            midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
            return midnight + timedelta(days=1)
        if stopped.outcome in ("missing_scope", "refused", "credential", "redirected", "ours"):
            return now + REFUSED_RETRY
        wait = stopped.retry_in if stopped.retry_in is not None else interval
        return now + max(wait, timedelta(seconds=LEAST_INTERVAL_S))


def _count(slug: str, arrived: int, new: int) -> None:
    counter(EVENTS).labels(slug, "arrived").inc(arrived)
    counter(EVENTS).labels(slug, "missed").inc(new)
