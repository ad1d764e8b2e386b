"""One attempt to get the next token of a connection, under a lease with a fence (sync-worker.md §4.2).

Claim the lease and commit; read again; POST outside of any transaction; store only where the version is the one that
was read and the lease still ours. Must never use a token before it is stored, nor hold a row lock over HTTP.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from chassis.clock import Clock
from chassis.db.database import Database
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid, Transient
from providers import oauth, registry
from providers.manifest import OAuth2Auth
from providers.provider import Provider
from sync_worker.audit import SERVICE, Audit
from sync_worker.connections.states import ENDED, ConnectionState, moved
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.connections.vault import TokenPair, Vault
from sync_worker.metrics import CREDENTIAL_REFRESHES
from sync_worker.models import Connection, Credential
from sync_worker.repository import connections, credentials
from sync_worker.repository.credentials import Snapshot

log = logger(__name__)

MAX_MARGIN_S: Final = 15 * 60.0
MARGIN_SHARE: Final = 0.2
# Refresh tokens that end by disuse are used once a day.
DAILY_S: Final = 24 * 3600.0
_JITTER: Final = 0.2

Outcome = Literal["stored", "not_ours", "failed", "refused"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds. The lease outlasts the token call, so that a slow answer is still ours.

    `cooldown_s`: no new try within it after a failure. `recheck_s`: how long an account is used without looking
    whether its connection was paused. `wait_s`: how long a call waits for a token. `spare_s`: a token that ends
    within it counts as ended.
    """

    lease_s: float = 20.0
    deadline_s: float = 15.0
    cooldown_s: float = 30.0
    recheck_s: float = 1.0
    wait_s: float = 20.0
    spare_s: float = 5.0
    poll_s: float = 0.1


def refresh_in_s(lifetime_s: float | None, refresh_expires_h: float | None, draw: float) -> float | None:
    """Return after how many seconds to refresh, None for never; `draw` in [0, 1) spreads tokens of one age.

    A margin of min(15 min, 20 % of the lifetime), up to a fifth less by the draw, before the end; at least daily when
    the refresh token ends by disuse.
    """
    due = None
    if lifetime_s is not None:
        due = lifetime_s - min(MAX_MARGIN_S, MARGIN_SHARE * lifetime_s) * (1 - _JITTER * draw)
    if refresh_expires_h is not None:
        daily = DAILY_S * (1 - _JITTER * draw)
        due = daily if due is None else min(due, daily)
    return due


def next_refresh_in_s(method: OAuth2Auth, pair: TokenPair, lifetime_s: float | None) -> float | None:
    """Return after how many seconds to refresh these tokens; None where nothing but a person brings new ones."""
    if not can_refresh(method, pair):
        return None
    return refresh_in_s(lifetime_s, method.refresh_expires_h, random.random())  # noqa: S311 (spreads load only)


def can_refresh(method: OAuth2Auth, pair: TokenPair) -> bool:
    """Tell whether new tokens can be got without a person."""
    return method.grant != "authorization_code" or (method.refresh != "none" and bool(pair.refresh_token))


class Refresher:
    """Attempts for one process; `owner` is its name in leases, no other process may have it."""

    def __init__(
        self, database: Database, vault: Vault, endpoint: TokenEndpoint, clock: Clock, *, owner: str, timing: Timing
    ) -> None:
        self._database = database
        self._vault = vault
        self._endpoint = endpoint
        self._clock = clock
        self._owner = owner
        self._timing = timing
        self._audit = Audit(clock)

    async def attempt(self, connection_id: UUID, version: int) -> Outcome:
        """Try to replace the tokens of this version.

        `not_ours`: another worker is at it, has done it, or failed a moment ago. `failed`: later perhaps. `refused`:
        the connection is NEEDS_REAUTH now.
        """
        timing = self._timing
        # Counted from before the claim: a process that was stopped in between must not send when it wakes.
        deadline = asyncio.get_running_loop().time() + timing.deadline_s
        async with self._database.unit_of_work() as uow:
            lease = {"lease_s": timing.lease_s, "cooldown_s": timing.cooldown_s}
            if not await credentials.claim(uow.connection, connection_id, version, self._owner, **lease):
                return "not_ours"
        async with self._database.connection() as connection:
            found = await credentials.snapshot(connection, connection_id)
        tokens = found.tokens if found else None
        if found is None or tokens is None or (tokens.version, tokens.lease_owner) != (version, self._owner):
            return "not_ours"
        outcome = await self._ask(found, tokens, deadline)
        counter(CREDENTIAL_REFRESHES).labels(found.connection.provider, outcome).inc()
        return outcome

    async def needs_reauth(self, connection_id: UUID, reason: str) -> None:
        """Let a connection wait for a person, with the reason; one that is over or waits already stays as it is."""
        async with self._database.unit_of_work() as uow:
            found = await connections.lock(uow.connection, connection_id)
            if found is None or found.state in {*ENDED, ConnectionState.NEEDS_REAUTH, ConnectionState.AUTHORIZING}:
                return
            found.state, found.reason = moved(found.state, ConnectionState.NEEDS_REAUTH), reason
            await connections.save(uow.connection, found)
            target = f"connection/{found.id}"
            detail = {"mode": found.mode, "reason": reason}
            self._audit.record(uow, SERVICE, "connection.needs_reauth", tenant=found.tenant, target=target, **detail)
        log.warning("connection_needs_reauth", connection=str(connection_id), provider=found.provider, reason=reason)

    async def limited(self, connection_id: UUID, reason: str) -> None:
        """Note that a live connection lacks a permission, with its name; it can still be called for everything else."""
        async with self._database.unit_of_work() as uow:
            found = await connections.lock(uow.connection, connection_id)
            if found is None or found.state != ConnectionState.LIVE:
                return
            found.state, found.reason = moved(found.state, ConnectionState.LIMITED), reason
            await connections.save(uow.connection, found)
            detail = {"mode": found.mode, "reason": reason}
            target = f"connection/{found.id}"
            self._audit.record(uow, SERVICE, "connection.limited", tenant=found.tenant, target=target, **detail)
        log.warning("connection_limited", connection=str(connection_id), provider=found.provider, reason=reason)

    async def _ask(self, found: Snapshot, tokens: Credential, deadline: float) -> Outcome:
        started = self._clock.monotonic()
        try:
            provider = registry.get(found.connection.provider)
            method = _method(provider, found.connection)
            await self._vault.prepare(found)
            account, pair = self._vault.open_all(found), self._vault.open_tokens(tokens)
            if not can_refresh(method, pair):
                return await self._refused(found, tokens, "token_expired")
            now = self._clock.now()
            call = oauth.refresh_call(method, account, pair.refresh_token, now)
            left = deadline - asyncio.get_running_loop().time()
            status, body = await self._endpoint.post(provider.slug, call, deadline_s=left)
            granted = oauth.read_answer(method, status, body, now)
        except oauth.TokenRefused as refusal:
            return await self._refused(found, tokens, refusal.code)
        except Invalid as error:
            return await self._refused(found, tokens, error.code)
        except (Transient, SealError) as error:
            code = error.code if isinstance(error, Transient) else "credential_unreadable"
            log.warning("token_refresh_failed", connection=str(tokens.connection), error=code)
            return await self._failed(tokens)
        lifetime_s = granted.lifetime_s
        if lifetime_s is not None:
            lifetime_s = max(lifetime_s - (self._clock.monotonic() - started), 0.0)
        new = TokenPair(granted.access_token, granted.refresh_token or pair.refresh_token)
        return await self._store(tokens, new, lifetime_s, method)

    async def _store(
        self, tokens: Credential, pair: TokenPair, lifetime_s: float | None, method: OAuth2Auth
    ) -> Outcome:
        async with self._database.unit_of_work() as uow:
            stored = await credentials.store(
                uow.connection,
                tokens,
                self._vault.seal_tokens(tokens, pair),
                lifetime_s=lifetime_s,
                refresh_in_s=next_refresh_in_s(method, pair, lifetime_s),
                owner=self._owner,
            )
        if not stored:
            # We were too slow and another has taken over; its token is the family's newest, ours is dropped.
            log.warning("token_refresh_fenced", connection=str(tokens.connection))
        return "stored" if stored else "not_ours"

    async def _failed(self, tokens: Credential) -> Outcome:
        async with self._database.unit_of_work() as uow:
            return "failed" if await credentials.fail(uow.connection, tokens, self._owner) else "not_ours"

    async def _refused(self, found: Snapshot, tokens: Credential, code: str) -> Outcome:
        """Ask a person, unless another worker has moved the tokens meanwhile: then ours were merely old."""
        if await self._failed(tokens) == "not_ours":
            return "not_ours"
        await self.needs_reauth(found.connection.id, code)
        return "refused"


def _method(provider: Provider, connection: Connection) -> OAuth2Auth:
    method = provider.api.method(connection.method)
    if not isinstance(method, OAuth2Auth):
        raise Invalid("no_authorisation", "this way to authenticate has no tokens", field="method")
    return method
