"""Changes of connections in the caller's transaction: made, paused, given new secrets, ended.

Each is audited with the connection's mode. Must never log or return a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from contracts.topics import SYNC_ENDPOINTS, Lane
from providers import registry
from sync_worker.audit import Audit
from sync_worker.connections import methods
from sync_worker.connections.states import ConnectionState, moved, working_state
from sync_worker.connections.vault import Vault
from sync_worker.endpoints.configuration import EndpointSettings
from sync_worker.endpoints.desk import Endpoints
from sync_worker.models import Connection
from sync_worker.repository import connections, credentials, endpoints, oauth_flows, tenants
from sync_worker.repository.endpoints import Stored


@dataclass(frozen=True, slots=True)
class Change:
    """What `PATCH` may set; None leaves a thing as it is."""

    options: dict[str, str] | None = None
    paused: bool | None = None


class ConnectionDesk:
    """Changes connections; the caller commits."""

    def __init__(self, vault: Vault, endpoints_desk: Endpoints, clock: Clock) -> None:
        self.vault = vault
        self._endpoints = endpoints_desk
        self._clock = clock
        self._audit = Audit(clock)

    async def create(
        self, uow: UnitOfWork, new: Connection, secrets: Mapping[str, str], lane: Lane, actor: str
    ) -> list[Stored] | None:
        """Store a connection with its secrets and, where it receives, an endpoint.

        Returns the endpoints; None when the account is connected already in this mode.
        """
        provider = registry.get(new.provider)
        # Before the tenant's row: a change of the tree locks the tree first and rows after it.
        await tenants.lock_tree(uow.connection, shared=True)
        await tenants.ensure(uow.connection, new.tenant)
        sealed = self.vault.seal(new.tenant, new.id, secrets)
        if methods.tokens_of(provider, new.method) is not None:
            sealed.append(self.vault.no_tokens(new.tenant, new.id))
        if not await connections.insert(uow.connection, new, sealed):
            return None
        self.record(uow, actor, "connection.created", new)
        if provider.manifest.webhook is None or provider.webhook.secret not in secrets:
            return []
        secret = secrets[provider.webhook.secret]
        return [await self._endpoints.create(uow, new, secret, EndpointSettings(lane=lane), actor)]

    async def change(self, uow: UnitOfWork, found: Connection, change: Change, actor: str) -> None:
        """Set options and pause or resume a locked connection; nothing happens where nothing changes.

        Raises `Invalid` (`unknown_option`, `bad_option`) and `Terminal` (`wrong_state`).
        """
        changed = False
        if change.options is not None:
            options = registry.get(found.provider).manifest.resolve_options({**found.options, **change.options})
            if options != found.options:
                found.options, changed = options, True
                # Its endpoints' records hold the options; the republisher sends those that differ.
                await endpoints.mark_tenant(uow.connection, found.tenant, self._clock.now())
                uow.after_commit(self._endpoints.wake)
                self.record(uow, actor, "connection.changed", found, fields=",".join(sorted(change.options)))
        if change.paused is not None and change.paused != (found.state == ConnectionState.PAUSED):
            if change.paused:
                found.state, found.reason = moved(found.state, ConnectionState.PAUSED), "paused by an operator"
            else:
                state, reason = working_state(found.missing_scopes)
                found.state, found.reason = moved(found.state, state), reason
            changed = True
            self.record(uow, actor, "connection.paused" if change.paused else "connection.resumed", found)
        if changed:
            await connections.save(uow.connection, found)

    async def replace_secrets(
        self, uow: UnitOfWork, found: Connection, secrets: Mapping[str, str], actor: str
    ) -> dict[str, int]:
        """Make secrets of a locked connection their next versions and return those; it works again if it did not.

        Tokens that were got with an older secret end with it.
        """
        versions: dict[str, int] = {}
        for kind, value in secrets.items():
            versions[kind] = await credentials.next_version(uow.connection, found.id, kind)
            (sealed,) = self.vault.seal(found.tenant, found.id, {kind: value}, versions[kind])
            await credentials.supersede(uow.connection, sealed)
        provider = registry.get(found.provider)
        if methods.tokens_of(provider, found.method) is not None and not methods.code_flow(provider, found.method):
            await self._drop_tokens(uow, found)
        if found.state == ConnectionState.NEEDS_REAUTH and not methods.code_flow(provider, found.method):
            state, reason = working_state(found.missing_scopes)
            found.state, found.reason = moved(found.state, state), reason
        await connections.save(uow.connection, found)
        self.record(uow, actor, "connection.credentials_set", found, kinds=",".join(sorted(secrets)))
        return versions

    async def end(self, uow: UnitOfWork, found: Connection, actor: str, action: str = "connection.revoked") -> None:
        """Revoke a locked connection: its secrets, flows and endpoints are gone. Idempotent.

        The caller took `endpoints.serialise` before it locked anything, so that the tombstones come last.
        """
        if found.state in (ConnectionState.REVOKED, ConnectionState.ERASED):
            return
        found.state, found.reason = moved(found.state, ConnectionState.REVOKED), ""
        await connections.save(uow.connection, found)
        await credentials.delete(uow.connection, found.id)
        await oauth_flows.delete(uow.connection, found.id)
        for endpoint in await connections.delete_endpoints(uow.connection, found.id):
            uow.tombstone(SYNC_ENDPOINTS, endpoint)
        self.record(uow, actor, action, found)

    def record(self, uow: UnitOfWork, actor: str, action: str, found: Connection, **detail: str) -> None:
        """Audit an act on a connection."""
        target = f"connection/{found.id}"
        self._audit.record(uow, actor, action, tenant=found.tenant, target=target, mode=found.mode, **detail)

    async def _drop_tokens(self, uow: UnitOfWork, found: Connection) -> None:
        tokens = await credentials.lock_tokens(uow.connection, found.id)
        if tokens is not None:
            owner = tokens.lease_owner
            await credentials.store(uow.connection, tokens, b"", lifetime_s=0.0, refresh_in_s=None, owner=owner)


def shown(found: Connection) -> dict[str, Any]:
    """Return a connection for people and programs; it holds no secret."""
    fields = found.model_dump(mode="json")
    names = ("id", "tenant", "provider", "account_ref", "mode", "state", "reason", "method", "options", "scopes")
    return {name: fields[name] for name in (*names, "missing_scopes", "last_test", "version", "created_at")}
