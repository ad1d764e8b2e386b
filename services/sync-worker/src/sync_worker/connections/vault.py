"""Credentials: sealed in the database, open in memory only.

Must never give the refresh token to a caller, nor anything to one whose connection is over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from chassis.db.connection import Connection
from chassis.sealing import Keyring
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
    """Seals and opens the secrets of connections."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, tenant: str, connection: UUID, secrets: Mapping[str, str], version: int = 1) -> list[Credential]:
        """Return credentials of this version, first ones unless it is given."""
        return [
            Credential(
                connection=connection,
                kind=kind,
                version=version,
                tenant=tenant,
                sealed=self._keyring.seal(value, _place(tenant, connection, kind, version)),
            )
            for kind, value in secrets.items()
        ]

    def no_tokens(self, tenant: str, connection: UUID) -> Credential:
        """Return the row of a connection whose tokens are still to come."""
        return Credential(connection=connection, kind=OAUTH, version=0, tenant=tenant, sealed=b"")

    def seal_tokens(self, current: Credential, pair: TokenPair) -> bytes:
        """Return tokens sealed as the version after `current`."""
        text = json.dumps({"access_token": pair.access_token, "refresh_token": pair.refresh_token})
        return self._keyring.seal(text, _place(current.tenant, current.connection, OAUTH, current.version + 1))

    def open(self, one: Credential) -> str:
        """Return the text of a credential; raises `SealError`."""
        return self._keyring.open(one.sealed, _place(one.tenant, one.connection, one.kind, one.version))

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
        return self.open_all(found)

    async def secrets(self, connection: Connection, connection_id: UUID) -> dict[str, str]:
        """Return the secrets that were given for a connection that is not over; raises `Terminal` (`no_connection`)."""
        found = await credentials.snapshot(connection, connection_id)
        if found is None or found.connection.state in ENDED:
            raise Terminal("no_connection", "the connection is not live")
        return {one.kind: self.open(one) for one in found.credentials if one.kind != OAUTH and one.sealed}


def _place(tenant: str, connection: UUID, kind: str, version: int) -> str:
    return f"credential|{tenant}|{connection}|{kind}|{version}"
