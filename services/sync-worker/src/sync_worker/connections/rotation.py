"""Rotation of API credentials with overlap (health-monitor.md §2.7): no call fails while B takes the place of A.

Store B, probe with it, make it active, let calls with A end, end A at the provider, look whether A is refused. Every
step but the probe with B stands in the table, so that whichever worker is left goes on. Must never make B active that
the provider has not taken, nor end A while a call may still use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal
from uuid import UUID

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from contracts.errors import Invalid, PatchbayError, Terminal, Transient
from contracts.ids import uuid7
from providers import oauth, registry
from providers.manifest import OAuth2Auth
from providers.manifest.auth import ACCESS_TOKEN
from providers.sdk import Account
from sync_worker.audit import SERVICE
from sync_worker.connections import methods
from sync_worker.connections.parts import Parts
from sync_worker.connections.probe import ConnectionTest
from sync_worker.connections.refresh import next_refresh_in_s
from sync_worker.connections.states import CALLABLE
from sync_worker.connections.vault import TokenPair
from sync_worker.models import Connection, Credential
from sync_worker.repository import connections, credentials
from sync_worker.repository.credentials import OAUTH, Snapshot

log = logger(__name__)

# A worker holds an account for a second (`Timing.recheck_s`), and may then begin the longest call (60 s) with it.
DRAIN_S: Final = 61.0
# Longer than a token call and a probe together: then whoever began is gone.
ABANDON_S: Final = 120.0
LEASE_S: Final = 60.0
SCAN_INTERVAL_S: Final = 5.0
SCAN_BATCH: Final = 100

OldCheck = Literal["refused", "still_accepted", "not_probed"]


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation made active, by kind, and until when the credentials before are still in use."""

    connection: Connection
    versions: dict[str, int]
    draining_until: datetime


class Rotations:
    """Rotates credentials on request, and finishes in the background: `run` it. `drain_s` is other in tests only."""

    def __init__(
        self, database: Database, parts: Parts, test: ConnectionTest, clock: Clock, *, drain_s: float = DRAIN_S
    ) -> None:
        self._database = database
        self._parts = parts
        self._test = test
        self._clock = clock
        self._drain_s = drain_s
        self._owner = str(uuid7())

    async def rotate(self, connection_id: UUID, secrets: Mapping[str, str], actor: str) -> Rotated:
        """Put secrets in the place of the active ones, which stay in use until they have drained.

        Raises `Invalid` (`credential_refused`, or as `methods.check_change`), `Terminal` (`no_connection`,
        `rotation_under_way`, `rotation_unsupported`, `rotation_overtaken`, `no_probe`) and `Transient`
        (`credential_not_verified`, `kms_unavailable`); after each nothing has changed.
        """
        await self._store(connection_id, secrets, actor)
        try:
            granted = await self._prove(connection_id, secrets)
            return await self._flip(connection_id, granted, actor)
        except PatchbayError as error:
            await self._drop(connection_id, actor, error.code)
            raise

    async def run(self) -> None:
        """Finish what is due, until cancelled."""
        while True:
            try:
                await self.finish_due()
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._clock.sleep(SCAN_INTERVAL_S)

    async def finish_due(self) -> int:
        """Drop what was abandoned, end what has drained, and return how many connections that concerned."""
        async with self._database.connection() as connection:
            due = await credentials.rotations_due(connection, SCAN_BATCH)
        for connection_id, state in due:
            if state == "next":
                await self._drop(connection_id, SERVICE, "abandoned", due_only=True)
            else:
                await self._end_old(connection_id)
        return len(due)

    async def _store(self, connection_id: UUID, secrets: Mapping[str, str], actor: str) -> None:
        await self._snapshot(connection_id)
        async with self._database.unit_of_work() as uow:
            found = await self._locked(uow, connection_id)
            provider = registry.get(found.provider)
            methods.check_change(provider, found.method, secrets)
            if methods.code_flow(provider, found.method) is not None:
                detail = "a person grants access to this connection: replace its secrets with PUT and authorise again"
                raise Terminal("rotation_unsupported", detail)
            if await credentials.in_rotation(uow.connection, found.id):
                raise Terminal("rotation_under_way", "the connection's last rotation has not ended yet")
            new: list[Credential] = []
            for kind, value in secrets.items():
                version = await credentials.next_version(uow.connection, found.id, kind)
                new += self._parts.vault.seal(found.tenant, found.id, {kind: value}, version)
            for one in new:
                one.state = "next"
            await credentials.prepare(uow.connection, new, requested_by=actor, abandon_s=ABANDON_S)
            self._parts.desk.record(uow, actor, "connection.rotation_begun", found, kinds=",".join(sorted(secrets)))

    async def _prove(self, connection_id: UUID, secrets: Mapping[str, str]) -> oauth.Granted | None:
        """Use the new credentials once and return the token that they brought, if they are for tokens.

        Raises `Invalid` (`credential_refused`), `Terminal` (`no_probe`) and `Transient` (`credential_not_verified`).
        """
        found = await self._snapshot(connection_id)
        account = self._parts.vault.open_all(found)
        account = replace(account, secrets={**account.secrets, **secrets})
        granted: oauth.Granted | None = None
        method = _tokens_of(found.connection)
        if method is not None:
            try:
                granted = await self._token(found.connection, method, account)
            except oauth.TokenRefused as refusal:
                raise Invalid("credential_refused", f"the provider answered {refusal.code}", field="secrets") from None
            account = replace(account, secrets={**account.secrets, ACCESS_TOKEN: granted.access_token})
        result = await self._test.ask(found.connection, account)
        if result.code == "no_probe":
            raise Terminal("no_probe", "there is no cheap read to try it with: replace the secrets with PUT")
        if result.meaning in ("credential", "missing_scope"):
            raise Invalid("credential_refused", "the provider does not take it", field="secrets")
        if result.meaning != "success":
            raise Transient("credential_not_verified", "the provider did not say whether it takes it")
        return granted

    async def _flip(self, connection_id: UUID, granted: oauth.Granted | None, actor: str) -> Rotated:
        async with self._database.unit_of_work() as uow:
            found = await self._locked(uow, connection_id)
            active = {one.kind: one.version for one in await credentials.active(uow.connection, found.id)}
            waiting = [one for one in await credentials.in_rotation(uow.connection, found.id) if one.state == "next"]
            if not waiting or any(one.version < active.get(one.kind, 0) for one in waiting):
                raise Terminal("rotation_overtaken", "the secrets were replaced or the rotation abandoned meanwhile")
            await self._replace_tokens(uow, found, granted)
            made = await credentials.flip(uow.connection, found.id, self._drain_s)
            await connections.save(uow.connection, found)
            self._parts.desk.record(uow, actor, "connection.credentials_flipped", found, **_named(made))
            uow.after_commit(lambda: self._parts.tokens.forget(found.id))
        until = self._clock.now().astimezone(UTC) + timedelta(seconds=self._drain_s)
        return Rotated(found, made, until)

    async def _replace_tokens(self, uow: UnitOfWork, found: Connection, granted: oauth.Granted | None) -> None:
        method = _tokens_of(found)
        tokens = await credentials.lock_tokens(uow.connection, found.id)
        if method is None or granted is None or tokens is None:
            return
        pair = TokenPair(granted.access_token, granted.refresh_token)
        lifetime_s = granted.lifetime_s
        # Whoever is refreshing with A loses to this by the version.
        await credentials.store(
            uow.connection,
            tokens,
            self._parts.vault.seal_tokens(tokens, pair),
            lifetime_s=lifetime_s,
            refresh_in_s=next_refresh_in_s(method, pair, lifetime_s),
            owner=tokens.lease_owner,
        )
        if tokens.sealed:
            await credentials.drain_tokens(uow.connection, tokens, self._drain_s)

    async def _end_old(self, connection_id: UUID) -> None:
        """End the credentials that have drained: at the provider where it can, in the table in any case."""
        async with self._database.unit_of_work() as uow:
            old = await credentials.claim_draining(uow.connection, connection_id, self._owner, lease_s=LEASE_S)
        if not old:
            return
        check = await self._check_old(connection_id, old)
        async with self._database.unit_of_work() as uow:
            found = await connections.lock(uow.connection, connection_id)
            if found is None:
                return
            ended = await credentials.end_draining(uow.connection, connection_id, self._owner, check)
            if not ended:
                return
            self._parts.desk.record(
                uow, SERVICE, "connection.old_credentials_revoked", found, old_check=check, **_named(ended)
            )
        if check == "still_accepted":
            log.warning("old_credential_still_accepted", connection=str(connection_id), provider=found.provider)

    async def _check_old(self, connection_id: UUID, old: list[Credential]) -> OldCheck:
        """End the old credentials at a provider that offers that, and return whether it still takes them."""
        try:
            found = await self._snapshot(connection_id, old)
            account = self._parts.vault.open_all(found)
            secrets = {**account.secrets, **{one.kind: self._parts.vault.open(one) for one in old if one.kind != OAUTH}}
            account = replace(account, secrets=secrets)
            method = _tokens_of(found.connection)
            if method is None:
                result = await self._test.ask(found.connection, account)
                return _OLD.get(result.meaning, "not_probed")
            for one in old:
                if one.kind == OAUTH:
                    await self._end_token(found.connection, method, account, one)
            await self._token(found.connection, method, account)
        except oauth.TokenRefused:
            return "refused"
        except (PatchbayError, SealError) as error:
            log.warning("old_credential_not_probed", connection=str(connection_id), error=type(error).__name__)
            return "not_probed"
        else:
            return "still_accepted"

    async def _end_token(self, found: Connection, method: OAuth2Auth, account: Account, old: Credential) -> None:
        pair = self._parts.vault.open_tokens(old)
        call = oauth.revoke_call(method, account, pair.refresh_token or pair.access_token)
        if call is not None:
            await self._parts.endpoint.post(found.provider, call)

    async def _token(self, found: Connection, method: OAuth2Auth, account: Account) -> oauth.Granted:
        now = self._clock.now()
        status, body = await self._parts.endpoint.post(found.provider, oauth.refresh_call(method, account, "", now))
        return oauth.read_answer(method, status, body, now)

    async def _drop(self, connection_id: UUID, actor: str, reason: str, *, due_only: bool = False) -> None:
        async with self._database.unit_of_work() as uow:
            found = await connections.lock(uow.connection, connection_id)
            dropped = await credentials.drop_next(uow.connection, connection_id, due_only=due_only)
            if found is not None and dropped:
                self._parts.desk.record(
                    uow, actor, "connection.rotation_dropped", found, reason=reason, **_named(dropped)
                )

    async def _snapshot(self, connection_id: UUID, more: Iterable[Credential] = ()) -> Snapshot:
        """Return the connection with what opens its credentials; raises `Terminal` and `Transient`."""
        async with self._database.connection() as connection:
            found = await credentials.snapshot(connection, connection_id)
        if found is None or found.connection.state not in CALLABLE:
            raise Terminal("no_connection", "the connection is not live")
        await self._parts.vault.prepare(found, more)
        return found

    async def _locked(self, uow: UnitOfWork, connection_id: UUID) -> Connection:
        found = await connections.lock(uow.connection, connection_id)
        if found is None or found.state not in CALLABLE:
            raise Terminal("no_connection", "the connection is not live")
        return found


_OLD: Final[dict[str, OldCheck]] = {"credential": "refused", "success": "still_accepted"}


def _tokens_of(found: Connection) -> OAuth2Auth | None:
    return methods.tokens_of(registry.get(found.provider), found.method)


def _named(versions: Mapping[str, int]) -> dict[str, str]:
    return {"credentials": ",".join(f"{kind}/{version}" for kind, version in sorted(versions.items()))}
