"""OAuth with a person: from the address to send them to, through the callback, to a connection that works.

A flow is used once: whatever goes wrong, it is over. Must never make a second connection of one account, nor log a
state, code, verifier or token.
"""

from __future__ import annotations

import hashlib
import secrets as random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.sealing import Keyring
from contracts.errors import Invalid, Terminal, Transient
from providers import oauth, registry
from providers.manifest import OAuth2Auth
from sync_worker.connections import methods
from sync_worker.connections.desk import ConnectionDesk
from sync_worker.connections.refresh import next_refresh_in_s
from sync_worker.connections.states import ENDED, ConnectionState, moved, working_state
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.connections.tokens import Tokens
from sync_worker.connections.vault import TokenPair
from sync_worker.models import Connection, OAuthFlow
from sync_worker.repository import connections, credentials, endpoints, oauth_flows
from sync_worker.repository.credentials import Snapshot

FLOW_LIFETIME_S: Final = 600.0
CALLBACK_PATH: Final = "/v1/oauth/callback"
_STATE_BYTES: Final = 32
# RFC 7636 §4.1: 43 to 128 characters; 48 bytes make 64.
_VERIFIER_BYTES: Final = 48


class FlowDead(Exception):  # noqa: N818 (a verdict on a flow)
    """The flow is over without a connection; `code` is stable, the detail safe to show."""

    def __init__(self, code: str, detail: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = status


@dataclass(frozen=True, slots=True)
class Callback:
    """What a person's browser brought back; `query` holds what else the provider added."""

    state: str = field(default="", repr=False)
    code: str = field(default="", repr=False)
    error: str = ""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)


class Authorisation:
    """Begins flows and finishes them."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        desk: ConnectionDesk,
        tokens: Tokens,
        *,
        endpoint: TokenEndpoint,
        clock: Clock,
        redirect_uri: str,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._vault = desk.vault
        self._desk = desk
        self._tokens = tokens
        self._endpoint = endpoint
        self._clock = clock
        self._redirect_uri = redirect_uri

    async def begin(self, uow: UnitOfWork, connection_id: UUID, scopes: tuple[str, ...] | None, actor: str) -> str:
        """Return the address at which a person grants access; the flow ends after `FLOW_LIFETIME_S`.

        For a new connection and one that exists alike. Without `scopes` those of the manifest are asked for. Raises
        `Terminal` (`no_connection`, `no_authorisation`).
        """
        found = await credentials.snapshot(uow.connection, connection_id)
        if found is None or found.connection.state in ENDED:
            raise Terminal("no_connection", "the connection is over")
        method = methods.code_flow(registry.get(found.connection.provider), found.connection.method)
        if method is None:
            raise Terminal("no_authorisation", "this connection's way to authenticate asks nobody for access")
        state, verifier = random.token_urlsafe(_STATE_BYTES), random.token_urlsafe(_VERIFIER_BYTES)
        asked = method.scopes if scopes is None else scopes
        one = found.connection
        hashed = _hashed(state)
        flow = OAuthFlow(
            state_hash=hashed,
            connection=one.id,
            tenant=one.tenant,
            verifier=self._keyring.seal(verifier, _place(one.tenant, one.id, hashed)),
            redirect_uri=self._redirect_uri,
            scopes=list(asked),
            expires_at=found.now + timedelta(seconds=FLOW_LIFETIME_S),
            created_by=actor,
        )
        await oauth_flows.insert(uow.connection, flow)
        self._desk.record(uow, actor, "connection.authorisation_begun", one, scopes=" ".join(asked))
        url = oauth.authorize_url(
            method,
            self._vault.open_all(found),
            redirect_uri=self._redirect_uri,
            state=state,
            verifier=verifier,
            scopes=asked,
        )
        return self._endpoint.address(one.provider, url)

    async def finish(self, callback: Callback) -> Connection:
        """Exchange the code, store the tokens and return the connection that has them; raises `FlowDead`.

        That is the flow's connection, or the one that holds the account already.
        """
        async with self._database.unit_of_work() as uow:
            taken = await oauth_flows.take(uow.connection, _hashed(callback.state))
        if taken is None:
            raise FlowDead("unknown_state", "state: no flow has it; a flow is used once")
        flow, alive = taken
        self._check(flow, callback, alive=alive)
        async with self._database.connection() as connection:
            found = await credentials.snapshot(connection, flow.connection)
        if found is None or found.connection.state in ENDED:
            raise FlowDead("no_connection", "the connection is over")
        method = methods.code_flow(registry.get(found.connection.provider), found.connection.method)
        if method is None:
            raise FlowDead("no_authorisation", "the connection no longer asks a person for access")
        granted = await self._exchange(flow, callback.code, found, method)
        async with self._database.unit_of_work() as uow:
            done = await self._store(uow, flow, _account(method, granted, callback), granted, method)
        for one in {flow.connection, done.id}:
            self._tokens.forget(one)
        return done

    def _check(self, flow: OAuthFlow, callback: Callback, *, alive: bool) -> None:
        if not alive:
            raise FlowDead("flow_expired", f"state: the flow ended after {FLOW_LIFETIME_S:.0f} s")
        if flow.redirect_uri != self._redirect_uri:
            raise FlowDead("redirect_mismatch", "the flow was begun for another redirect address")
        if callback.error:
            raise FlowDead("authorisation_denied", "the provider reports that access was not granted")
        if not callback.code:
            raise FlowDead("missing_code", "code: the callback has none")

    async def _exchange(self, flow: OAuthFlow, code: str, found: Snapshot, method: OAuth2Auth) -> oauth.Granted:
        verifier = self._keyring.open(flow.verifier, _place(flow.tenant, flow.connection, flow.state_hash))
        try:
            await self._vault.prepare(found)
            account = self._vault.open_all(found)
            call = oauth.code_call(method, account, code=code, redirect_uri=flow.redirect_uri, verifier=verifier)
            status, body = await self._endpoint.post(found.connection.provider, call)
            return oauth.read_answer(method, status, body, self._clock.now())
        except oauth.TokenRefused as refusal:
            raise FlowDead("code_refused", f"code: the provider answered {refusal.code}") from None
        except Invalid as error:
            raise FlowDead(error.code, error.detail) from None
        except Transient as error:
            raise FlowDead(error.code, "the provider did not exchange the code; begin again", 502) from None

    async def _store(
        self, uow: UnitOfWork, flow: OAuthFlow, account_ref: str, granted: oauth.Granted, method: OAuth2Auth
    ) -> Connection:
        await endpoints.serialise(uow.connection, flow.connection)
        begun = await connections.lock(uow.connection, flow.connection)
        if begun is None or begun.state in ENDED:
            raise FlowDead("no_connection", "the connection is over")
        if not account_ref and not begun.account_ref:
            raise FlowDead("unknown_account", "the provider did not say which account this is")
        if account_ref and begun.account_ref not in ("", account_ref):
            raise FlowDead("other_account", "access was granted to another account than the connection's")
        target = await self._target(uow, begun, account_ref or begun.account_ref, flow.created_by)
        await self._store_tokens(uow, target, granted, method)
        missing = oauth.missing_scopes(tuple(flow.scopes), granted.scopes)
        target.account_ref = account_ref or target.account_ref
        target.scopes, target.missing_scopes = list(flow.scopes), list(missing)
        if target.state != ConnectionState.PAUSED:
            state, reason = working_state(missing)
            target.state, target.reason = moved(target.state, state), reason
        await connections.save(uow.connection, target)
        self._desk.record(uow, flow.created_by, "connection.authorised", target, missing_scopes=" ".join(missing))
        return target

    async def _target(self, uow: UnitOfWork, begun: Connection, account_ref: str, actor: str) -> Connection:
        """Return the connection of the account: the flow's own, or the older one, which takes over its secrets."""
        known = await connections.of_account(uow.connection, begun, account_ref)
        if known is None or known.id == begun.id:
            return begun
        secrets = await self._vault.secrets(uow.connection, begun.id)
        needed = methods.method_of(registry.get(begun.provider), begun.method).secret_names()
        known.method = begun.method
        await self._desk.replace_secrets(uow, known, {name: secrets[name] for name in needed}, actor)
        await self._desk.end(uow, begun, actor, "connection.merged")
        return known

    async def _store_tokens(
        self, uow: UnitOfWork, target: Connection, granted: oauth.Granted, method: OAuth2Auth
    ) -> None:
        tokens = await credentials.lock_tokens(uow.connection, target.id)
        if tokens is None:
            tokens = self._vault.no_tokens(target.tenant, target.id)
            await credentials.insert(uow.connection, [tokens])
        # A refresh that is under way holds the lease; the new version fences it.
        pair = TokenPair(granted.access_token, granted.refresh_token)
        await credentials.store(
            uow.connection,
            tokens,
            self._vault.seal_tokens(tokens, pair),
            lifetime_s=granted.lifetime_s,
            refresh_in_s=next_refresh_in_s(method, pair, granted.lifetime_s),
            owner=tokens.lease_owner,
        )


def _account(method: OAuth2Auth, granted: oauth.Granted, callback: Callback) -> str:
    return granted.account or (callback.query.get(method.account_query, "") if method.account_query else "")


def _hashed(state: str) -> bytes:
    return hashlib.sha256(state.encode()).digest()


def _place(tenant: str, connection: Any, state_hash: bytes) -> str:
    return f"oauth_flow|{tenant}|{connection}|{state_hash.hex()}"
