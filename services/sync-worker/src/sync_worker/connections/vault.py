"""Credentials: sealed in the database, open in memory only.

Must never give the refresh token to a caller, nor anything to one whose connection is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from chassis.db.connection import Connection
from chassis.sealing import Keyring, SealError
from chassis.sealing.envelopes import LocalSealer, Sealer
from contracts.errors import Terminal
from providers.manifest.auth import ACCESS_TOKEN
from providers.sdk import Account
from sync_worker.connections.states import CALLABLE, ENDED
from sync_worker.models import Credential
from sync_worker.repository import credentials
from sync_worker.repository.credentials import OAUTH, Snapshot


@dataclass(frozen=True, slots=True)
class TokenPair:
    """OAuth tokens as they are sealed; empty where there is none."""

    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


class Vault:
    """Seals and opens the secrets of connections, with the keyring unless another sealer is given.

    What opens or seals at once needs `prepare` before it.
    """

    def __init__(self, keyring: Keyring, sealer: Sealer | None = None) -> None:
        self.sealer: Sealer = sealer or LocalSealer(keyring)

    async def prepare(self, found: Snapshot, more: Iterable[Credential] = ()) -> None:
        """Have what opens these credentials and seals others of the tenant; raises `Transient` (`kms_unavailable`)."""
        await self.prepare_tenant(found.connection.tenant, [*found.credentials, *more])

    async def prepare_tenant(self, tenant: str, known: Iterable[Credential] = ()) -> None:
        """Have what seals credentials of a tenant and opens those that are known; raises as `prepare` does."""
        try:
            await self.sealer.prepare(tenant, [one.sealed for one in known])
        except SealError:
            # What cannot be had fails where it is opened, with its own place; the other values can be.
            return

    async def rewrap(self, one: Credential) -> bytes:
        """Return the sealed value under the newest key; raises `SealError` and `Transient`."""
        place = _place(one.tenant, one.connection, one.kind, one.version)
        return await self.sealer.rewrap(one.sealed, place, one.tenant)

    def seal(self, tenant: str, connection: UUID, secrets: Mapping[str, str], version: int = 1) -> list[Credential]:
        """Return credentials of this version, first ones unless it is given."""
        return [
            Credential(
                connection=connection,
                kind=kind,
                version=version,
                tenant=tenant,
                sealed=self.sealer.seal(value, _place(tenant, connection, kind, version), tenant),
            )
            for kind, value in secrets.items()
        ]

    def no_tokens(self, tenant: str, connection: UUID) -> Credential:
        """Return the row of a connection whose tokens are still to come."""
        return Credential(connection=connection, kind=OAUTH, version=0, tenant=tenant, sealed=b"")

    def seal_tokens(self, current: Credential, pair: TokenPair) -> bytes:
        """Return tokens sealed as the version after `current`."""
        text = json.dumps({"access_token": pair.access_token, "refresh_token": pair.refresh_token})
        place = _place(current.tenant, current.connection, OAUTH, current.version + 1)
        return self.sealer.seal(text, place, current.tenant)

    def open(self, one: Credential) -> str:
        """Return the text of a credential; raises `SealError`."""
        return self.sealer.open(one.sealed, _place(one.tenant, one.connection, one.kind, one.version), one.tenant)

    def open_tokens(self, tokens: Credential | None) -> TokenPair:
        """Return the tokens of a row, empty ones where none came yet; raises `SealError`."""
        return TokenPair(**json.loads(self.open(tokens))) if tokens is not None and tokens.sealed else TokenPair()

    def open_all(self, found: Snapshot) -> Account:
        """Return the account of a connection with its secrets opened, whatever its state; raises `SealError`."""
        secrets = {one.kind: self.open(one) for one in found.credentials if one.kind != OAUTH and one.sealed}
        access = self.open_tokens(found.tokens).access_token
        one = found.connection
        return Account(
            account_ref=one.account_ref,
            secrets=secrets | ({ACCESS_TOKEN: access} if access else {}),
            options=one.options,
            method=one.method,
            mode=one.mode,
            version=found.version,
        )

    async def account(self, connection: Connection, connection_id: UUID | None) -> Account:
        """Return the account of a connection that may be called; raises `Terminal` (`no_connection`).

        Tokens are given as they stand: a call path asks `Tokens.account`, which refreshes them.
        """
        found = await credentials.snapshot(connection, connection_id) if connection_id else None
        if found is None or found.connection.state not in CALLABLE:
            raise Terminal("no_connection", "the connection is not live")
        await self.prepare(found)
        return self.open_all(found)

    async def secrets(self, connection: Connection, connection_id: UUID) -> dict[str, str]:
        """Return the secrets that were given for a connection that is not over; raises `Terminal` (`no_connection`)."""
        found = await credentials.snapshot(connection, connection_id)
        if found is None or found.connection.state in ENDED:
            raise Terminal("no_connection", "the connection is not live")
        await self.prepare(found)
        return {one.kind: self.open(one) for one in found.credentials if one.kind != OAUTH and one.sealed}


def _place(tenant: str, connection: UUID, kind: str, version: int) -> str:
    return f"credential|{tenant}|{connection}|{kind}|{version}"
