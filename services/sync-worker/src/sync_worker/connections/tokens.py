"""Accounts for the call path: opened once, kept by version, with a token that still holds.

However many callers wait for one token, one call of this process is under way, and one of the fleet (`refresh.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from chassis.clock import Clock
from chassis.db import tenancy
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from contracts.errors import PatchbayError, Terminal, Transient
from providers.sdk import Account
from sync_worker.connections.refresh import Refresher, Timing
from sync_worker.connections.states import CALLABLE, ConnectionState
from sync_worker.connections.vault import Vault
from sync_worker.repository import credentials
from sync_worker.repository.credentials import Snapshot

log = logger(__name__)

T = TypeVar("T")
SCAN_INTERVAL_S: Final = 5.0
# How late another worker's new token is noticed at most.
MAX_POLL_S: Final = 0.5
SCAN_BATCH: Final = 200
SCAN_WIDTH: Final = 8
# More accounts than this are not in use at once; the ones that came first are read again when they are needed.
MAX_HELD: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Held:
    account: Account
    until: float


class Tokens:
    """Accounts with working tokens. One per process: `run` it in the background, `close` it at the end."""

    def __init__(
        self, database: Database, vault: Vault, refresher: Refresher, clock: Clock, timing: Timing | None = None
    ) -> None:
        self._database = database
        self._vault = vault
        self._refresher = refresher
        self._clock = clock
        self._timing = timing or Timing()
        self._held: dict[UUID, _Held] = {}
        self._loads: dict[UUID, asyncio.Task[Snapshot]] = {}
        self._flights: dict[UUID, asyncio.Task[None]] = {}

    async def account(self, connection_id: UUID, *, wait_s: float | None = None) -> Account:
        """Return the account of a connection that may be called, with a token that holds; waits up to `wait_s`.

        Raises `Terminal` (`no_connection`, `needs_reauth`) and `Transient` (`token_unavailable`).
        """
        held = self._held.get(connection_id)
        if held is not None and self._clock.monotonic() < held.until:
            return held.account
        return await self._wait_for(connection_id, newer_than=-1, wait_s=wait_s)

    async def renew(self, connection_id: UUID, refused: Account, *, wait_s: float | None = None) -> Account:
        """Return the account with newer credentials than those that the provider has just refused (401).

        A token that another worker has renewed meanwhile is adopted, else it is refreshed once. Raises as `account`
        does, and `Terminal` (`credential_refused`) for secrets that cannot be renewed.
        """
        self.forget(connection_id)
        return await self._wait_for(connection_id, newer_than=refused.version, wait_s=wait_s)

    async def needs_reauth(self, connection_id: UUID, reason: str) -> None:
        """Let a connection wait for a person: even renewed credentials were refused. Idempotent."""
        with tenancy.scope(None):
            await self._refresher.needs_reauth(connection_id, reason)
        self.forget(connection_id)

    async def limited(self, connection_id: UUID, reason: str) -> None:
        """Note that the provider refused a call for want of a permission. Idempotent."""
        with tenancy.scope(None):
            await self._refresher.limited(connection_id, reason)

    def forget(self, connection_id: UUID) -> None:
        """Drop what is held of a connection, because it changed; the next call reads it again."""
        self._held.pop(connection_id, None)

    async def run(self) -> None:
        """Refresh tokens before they end, until cancelled."""
        while True:
            try:
                await self.refresh_due()
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._clock.sleep(SCAN_INTERVAL_S)

    async def refresh_due(self) -> int:
        """Refresh the tokens that are due now, and return how many there were."""
        async with self._database.connection() as connection:
            due = await credentials.due(connection, SCAN_BATCH, self._timing.cooldown_s)
        slots = asyncio.Semaphore(SCAN_WIDTH)

        async def refresh(connection_id: UUID, version: int) -> None:
            async with slots:
                try:
                    await self._flight(connection_id, version)
                except (PatchbayError, SealError) as error:
                    log.warning("token_not_refreshed", connection=str(connection_id), error=type(error).__name__)

        await asyncio.gather(*(refresh(*one) for one in due))
        return len(due)

    async def close(self) -> None:
        """Wait for token calls in flight: an answer that nobody stores could end a family of tokens."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def _wait_for(self, connection_id: UUID, *, newer_than: int, wait_s: float | None) -> Account:
        end = self._clock.monotonic() + (self._timing.wait_s if wait_s is None else wait_s)
        while True:
            found = await _joined(self._loads, connection_id, lambda: self._load(connection_id))
            if found.version > newer_than and self._holds(found):
                return self._keep(connection_id, found)
            tokens = found.tokens
            if tokens is None:
                raise Terminal("credential_refused", "the provider refuses the secret of the connection")
            left = end - self._clock.monotonic()
            pause = _pause(found, self._timing)
            if max(pause, 0.0) >= left:
                raise Transient("token_unavailable", "no token could be got in time")
            if pause > 0:
                await self._clock.sleep(pause)
                continue
            try:
                async with asyncio.timeout(left):
                    await self._flight(connection_id, tokens.version)
            except TimeoutError:
                raise Transient("token_unavailable", "no token could be got in time") from None

    async def _load(self, connection_id: UUID) -> Snapshot:
        async with self._database.connection() as connection:
            found = await credentials.snapshot(connection, connection_id)
        if found is not None and found.connection.state == ConnectionState.NEEDS_REAUTH:
            raise Terminal("needs_reauth", "the connection has to be authorised again")
        if found is None or found.connection.state not in CALLABLE:
            raise Terminal("no_connection", "the connection is not live")
        await self._vault.prepare(found)
        return found

    def _holds(self, found: Snapshot) -> bool:
        tokens = found.tokens
        if tokens is None:
            return True
        ends = tokens.expires_at
        return bool(tokens.sealed) and (ends is None or ends > found.now + timedelta(seconds=self._timing.spare_s))

    def _keep(self, connection_id: UUID, found: Snapshot) -> Account:
        try:
            account = self._vault.open_all(found)
        except SealError:
            raise Transient("credential_unreadable", "no key of the keyring opens it") from None
        seconds = self._timing.recheck_s
        due = found.tokens.refresh_after if found.tokens else None
        if due is not None:
            # From then on another worker may replace the token, and the old one may end with that.
            seconds = min(seconds, (due - found.now).total_seconds())
        if len(self._held) >= MAX_HELD:
            self._held.pop(next(iter(self._held)))
        self._held[connection_id] = _Held(account, self._clock.monotonic() + seconds)
        return account

    async def _flight(self, connection_id: UUID, version: int) -> None:
        await _joined(self._flights, connection_id, lambda: self._refresh(connection_id, version))

    async def _refresh(self, connection_id: UUID, version: int) -> None:
        outcome = await self._refresher.attempt(connection_id, version)
        if outcome == "not_ours":
            await self._watch(connection_id, version)
        self.forget(connection_id)

    async def _watch(self, connection_id: UUID, version: int) -> None:
        """Wait until the worker that holds the lease has moved the tokens, failed, or lost it; one look for all."""
        wait_s, waited = self._timing.poll_s, 0.0
        while waited < self._timing.lease_s:
            await self._clock.sleep(wait_s)
            waited += wait_s
            wait_s = min(2 * wait_s, MAX_POLL_S)
            async with self._database.connection() as connection:
                found = await credentials.snapshot(connection, connection_id)
            tokens = found.tokens if found else None
            if found is None or tokens is None or tokens.version != version:
                return
            if tokens.lease_until is None or tokens.lease_until < found.now:
                return


def _pause(found: Snapshot, timing: Timing) -> float:
    """Return how long to leave the token endpoint alone, in seconds: somebody has just failed there."""
    failed = found.tokens.failed_at if found.tokens else None
    return 0.0 if failed is None else timing.cooldown_s - (found.now - failed).total_seconds()


async def _joined(tasks: dict[UUID, asyncio.Task[T]], key: UUID, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await the task of this key, starting it if there is none; a caller that gives up does not end it for others."""
    task = tasks.get(key)
    if task is None:

        async def in_the_services_name() -> T:
            # The first caller's scope must not narrow what the others wait for.
            with tenancy.scope(None):
                return await start()

        task = tasks[key] = asyncio.create_task(in_the_services_name())
        task.add_done_callback(lambda done: _ended(tasks, key, done))
    return await asyncio.shield(task)


def _ended(tasks: dict[UUID, asyncio.Task[T]], key: UUID, done: asyncio.Task[T]) -> None:
    tasks.pop(key, None)
    # Whoever waited has seen the error; without this an abandoned task would be reported as one never retrieved.
    if not done.cancelled():
        done.exception()
