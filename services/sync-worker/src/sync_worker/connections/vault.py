"""Credentials: sealed in the database, open in memory only, for the length of one use."""

from __future__ import annotations

from uuid import UUID

from chassis.db.connection import Connection
from chassis.sealing import Keyring
from contracts.errors import Terminal
from providers.sdk import Account
from sync_worker.models import Credential
from sync_worker.repository import connections


class Vault:
    """Seals and opens the secrets of connections."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, tenant: str, connection: UUID, secrets: dict[str, str]) -> list[Credential]:
        """Return first versions of a connection's credentials."""
        return [
            Credential(
                connection=connection,
                name=name,
                version=1,
                sealed=self._keyring.seal(value, _place(tenant, connection, name, 1)),
            )
            for name, value in secrets.items()
        ]

    async def account(self, connection: Connection, connection_id: UUID | None) -> Account:
        """Return the account of a live connection with its secrets opened; raises `Terminal` (`no_connection`)."""
        found = await connections.by_id(connection, connection_id) if connection_id else None
        if found is None or found.state != "live":
            raise Terminal("no_connection", "the connection is not live")
        sealed = await connections.credentials(connection, found.id)
        secrets = {
            one.name: self._keyring.open(one.sealed, _place(found.tenant, found.id, one.name, one.version))
            for one in sealed
        }
        return Account(account_ref=found.account_ref, secrets=secrets, options=found.options)


def _place(tenant: str, connection: UUID, name: str, version: int) -> str:
    return f"credential|{tenant}|{connection}|{name}|{version}"
