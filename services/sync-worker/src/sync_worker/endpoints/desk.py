"""What operators do to endpoints: each act changes the rows, publishes the record and is audited, in one transaction.

A secret leaves this module sealed only. Callers hold the connection's turn (`open`, or `endpoints.serialise`), so that
the newest version of a record is also the last one on the topic.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets as random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, TypeVar

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.sealing import Keyring
from contracts.codec import encode
from contracts.errors import Invalid, Terminal
from contracts.events.sync import (
    EndpointConfigured,
    EndpointToken,
    RateLimit,
    SealedSecret,
    endpoint_secret_place,
)
from contracts.topics import SYNC_ENDPOINTS, Lane
from providers import registry
from providers.provider import Provider
from sync_worker.audit import SERVICE, Audit
from sync_worker.connections.vault import Vault
from sync_worker.endpoints import configuration
from sync_worker.endpoints.configuration import PROVIDER_RANGES, EndpointSettings, Limits
from sync_worker.models import Connection, Endpoint, EndpointAddress, EndpointKey
from sync_worker.repository import endpoints, tenants
from sync_worker.repository.endpoints import Stored

# 128 random bits in the URL: an endpoint cannot be guessed, and its provider's signature still has to verify.
TOKEN_BYTES: Final = 16
# The gateway tries every live key on every delivery, and each address is an entry in its table.
MAX_KEYS: Final = 8
MAX_ADDRESSES: Final = 8
# So long a sender that still uses an old address is refused by name, and seen in the ledger; after that it is unknown.
ADDRESS_MEMORY: Final = timedelta(days=30)

Lasting = TypeVar("Lasting", EndpointKey, EndpointAddress)


class Endpoints:
    """The acts, with what they need. All methods run in the caller's transaction."""

    def __init__(
        self, keyring: Keyring, clock: Clock, gateway_url: str, limits: Limits, vault: Vault | None = None
    ) -> None:
        self._keyring = keyring
        self.vault = vault or Vault(keyring)
        self._clock = clock
        self._gateway_url = gateway_url
        self._audit = Audit(clock)
        self.limits = limits
        # Called after a commit that left something to publish; set by the republisher of this process.
        self.wake: Callable[[], None] = lambda: None

    async def open(self, uow: UnitOfWork, endpoint_id: str) -> Stored | None:
        """Return an endpoint for a change, or None; waits for whoever changes an endpoint of the same connection."""
        connection_id = await endpoints.connection_of(uow.connection, endpoint_id)
        if connection_id is None:
            return None
        in_order = await endpoints.serialise(uow.connection, connection_id)
        # Before any row lock: a move in the tree locks the tree first and endpoints after it.
        await tenants.lock_tree(uow.connection, shared=True)
        found = await endpoints.lock(uow.connection, [endpoint_id])
        for stored in found:
            stored.out_of_turn = not in_order
        return found[0] if found else None

    async def create(
        self, uow: UnitOfWork, connection: Connection, secret: str, settings: EndpointSettings, actor: str
    ) -> Stored:
        """Add an endpoint to a live connection, with `secret` as key k1; raises `Invalid` that names the field."""
        token = random.token_urlsafe(TOKEN_BYTES)
        tenant = await tenants.get(uow.connection, connection.tenant)
        stored = Stored(
            endpoint=Endpoint(id=token, connection=connection.id, url="", lane=settings.lane, version=0),
            tenant=connection.tenant,
            provider=connection.provider,
            options=connection.options,
            tenant_limits=tenant.limits if tenant else None,
            keys=[],
            addresses=[],
        )
        await self._apply(uow, stored, settings)
        self._add_key(stored, secret, None, actor)
        self._add_address(stored, token, actor)
        await self.publish(uow, stored)
        self._record(uow, stored, actor, "endpoint.created", connection=str(connection.id))
        return stored

    async def change(self, uow: UnitOfWork, stored: Stored, settings: EndpointSettings, actor: str) -> None:
        """Set what `settings` gives; raises `Invalid` that names the field."""
        await self._apply(uow, stored, settings)
        await self.publish(uow, stored)
        self._record(uow, stored, actor, "endpoint.changed", fields=",".join(sorted(settings.model_fields_set)))

    async def set_state(self, uow: UnitOfWork, stored: Stored, state: str, actor: str) -> None:
        """Pause or resume; nothing happens when it is in that state already."""
        if stored.endpoint.state == state:
            return
        stored.endpoint.state = state
        await self.publish(uow, stored)
        self._record(uow, stored, actor, "endpoint.paused" if state == "paused" else "endpoint.resumed")

    async def add_key(
        self, uow: UnitOfWork, stored: Stored, secret: str, actor: str, window: tuple[datetime | None, float | None]
    ) -> str:
        """Add a key and return its id. `window` is its beginning, and the hours that older keys stay valid after it.

        None for the hours leaves the older keys alone. Raises `Invalid` (`bad_secret`, `known_secret`), and `Terminal`
        (`too_many_keys`).
        """
        not_before, overlap_h = window
        now = self._clock.now()
        await self._check_new_key(uow, stored, secret)
        if len(_live(stored.keys, now)) >= MAX_KEYS:
            raise Terminal("too_many_keys", f"an endpoint has at most {MAX_KEYS} keys; retire one first")
        if overlap_h is not None:
            # Counted from when the new key holds, or there would be a time without any.
            _end(stored.keys, max(now, not_before or now) + timedelta(hours=overlap_h))
        key = self._add_key(stored, secret, not_before, actor)
        await self.publish(uow, stored)
        kept = "" if overlap_h is None else f"{overlap_h:g}"
        self._record(uow, stored, actor, "endpoint.key_added", key_id=key.key_id, overlap_h=kept)
        return key.key_id

    async def retire_key(self, uow: UnitOfWork, stored: Stored, key_id: str, actor: str, *, force: bool) -> bool:
        """Retire a key now; False when there is none of this id.

        Raises `Terminal` (`last_key`) when no other key would go on being valid without an end, unless `force` is set.
        """
        now = self._clock.now()
        key = next((one for one in _live(stored.keys, now) if one.key_id == key_id), None)
        if key is None:
            return False
        lasting = [one for one in stored.keys if one is not key and one.not_after is None and _begun(one, now)]
        if not lasting and not force:
            raise Terminal("last_key", "no other key stays valid: deliveries would be refused; add one first, or force")
        stored.keys.remove(key)
        await self.publish(uow, stored)
        self._record(uow, stored, actor, "endpoint.key_retired", key_id=key_id, forced=str(not lasting).lower())
        return True

    async def rotate_url(self, uow: UnitOfWork, stored: Stored, overlap_h: float, actor: str) -> None:
        """Give the endpoint a new address; older ones are served for `overlap_h` hours more."""
        now = self._clock.now()
        if len(_live(stored.addresses, now)) >= MAX_ADDRESSES:
            raise Terminal(
                "too_many_addresses", f"an endpoint has at most {MAX_ADDRESSES} addresses; wait for one to end"
            )
        _end(stored.addresses, now + timedelta(hours=overlap_h))
        self._add_address(stored, random.token_urlsafe(TOKEN_BYTES), actor)
        await self.publish(uow, stored)
        self._record(uow, stored, actor, "endpoint.url_rotated", overlap_h=f"{overlap_h:g}")

    async def remove(self, uow: UnitOfWork, stored: Stored, actor: str) -> None:
        """Delete the endpoint: its addresses answer 404 from now on, its keys are gone."""
        await endpoints.delete(uow.connection, stored.endpoint.id)
        uow.tombstone(SYNC_ENDPOINTS, stored.endpoint.id)
        self._record(uow, stored, actor, "endpoint.deleted")

    async def publish(self, uow: UnitOfWork, stored: Stored) -> None:
        """Drop what has ended, save the endpoint and publish its record, under a new version if it changed."""
        now, endpoint = self._clock.now(), stored.endpoint
        ended = [key.key_id for key in stored.keys if not _lasts(key, now)]
        stored.keys, stored.addresses = _live(stored.keys, now), _remembered(stored.addresses, now)
        for key in stored.keys:
            if key.sealed is None:
                key.sealed = self._seal(stored, key.key_id, await self._connection_secret(uow, stored))
        record = self._configured(stored)
        digest = hashlib.sha256(encode(record.model_copy(update={"version": 0}))).hexdigest()
        if digest != endpoint.record_hash:
            endpoint.version, endpoint.record_hash = endpoint.version + 1, digest
        due = [key.not_after for key in stored.keys if key.not_after is not None]
        due += [one.not_after + ADDRESS_MEMORY for one in stored.addresses if one.not_after is not None]
        endpoint.republish_at = now if stored.out_of_turn else min(due, default=None)
        await endpoints.save(uow.connection, stored)
        record = record.model_copy(update={"version": endpoint.version})
        uow.emit(SYNC_ENDPOINTS, endpoint.id, record, tenant=stored.tenant)
        for key_id in ended:
            self._record(uow, stored, SERVICE, "endpoint.key_expired", key_id=key_id)
        if stored.out_of_turn:
            uow.after_commit(self.wake)

    async def secret_for(self, uow: UnitOfWork, connection: Connection, given: str | None) -> str:
        """Return the secret of a new endpoint: the given one once it is checked, else the connection's own.

        Raises `Invalid` (`bad_secret`, `missing_secret`, field `secret`), and `Terminal` (`no_connection`).
        """
        provider = registry.get(connection.provider)
        name = provider.webhook.secret
        secrets = await self.vault.secrets(uow.connection, connection.id)
        secret = given if given is not None else secrets.get(name)
        if secret is None:
            raise Invalid("missing_secret", f"the connection has no {name}", field="secret")
        _usable(provider, {**secrets, name: secret}, "secret")
        return secret

    async def _apply(self, uow: UnitOfWork, stored: Stored, settings: EndpointSettings) -> None:
        provider = registry.get(stored.provider)
        configuration.check(settings, provider, stored.options, self.limits)
        if settings.tenant_routes is not None:
            below = await tenants.subtree(uow.connection, stored.tenant)
            for account, tenant in settings.tenant_routes.accounts.items():
                if tenant not in below:
                    detail = f"{tenant} is neither {stored.tenant} nor below it"
                    raise Invalid("foreign_tenant", detail, field=f"tenant_routes.accounts.{account}")
        stored.endpoint.settings = stored.endpoint.settings | settings.given()
        if "lane" in settings.model_fields_set:
            stored.endpoint.lane = settings.lane

    async def _check_new_key(self, uow: UnitOfWork, stored: Stored, secret: str) -> None:
        provider = registry.get(stored.provider)
        secrets = await self.vault.secrets(uow.connection, stored.endpoint.connection)
        _usable(provider, {**secrets, provider.webhook.secret: secret}, "value")
        # A key that ends may be given once more, which is how an operator gives its sender more time.
        for key in (one for one in stored.keys if one.not_after is None):
            known = (
                self._keyring.open(key.sealed, endpoint_secret_place(stored.tenant, stored.endpoint.id, key.key_id))
                if key.sealed is not None
                else secrets[provider.webhook.secret]
            )
            if hmac.compare_digest(known.encode(), secret.encode()):
                raise Invalid("known_secret", f"this is the value of {key.key_id} already", field="value")

    async def _connection_secret(self, uow: UnitOfWork, stored: Stored) -> str:
        secrets = await self.vault.secrets(uow.connection, stored.endpoint.connection)
        return secrets[registry.get(stored.provider).webhook.secret]

    def _seal(self, stored: Stored, key_id: str, secret: str) -> bytes:
        return self._keyring.seal(secret, endpoint_secret_place(stored.tenant, stored.endpoint.id, key_id))

    def _add_key(self, stored: Stored, secret: str, not_before: datetime | None, actor: str) -> EndpointKey:
        stored.endpoint.keys_issued += 1
        key_id = f"k{stored.endpoint.keys_issued}"
        key = EndpointKey(
            endpoint=stored.endpoint.id,
            key_id=key_id,
            sealed=self._seal(stored, key_id, secret),
            not_before=not_before,
            created_at=self._clock.now(),
            created_by=actor,
        )
        stored.keys.append(key)
        return key

    def _add_address(self, stored: Stored, token: str, actor: str) -> None:
        stored.endpoint.url = f"{self._gateway_url}/hooks/{token}"
        stored.addresses.append(
            EndpointAddress(
                token=token,
                endpoint=stored.endpoint.id,
                url=stored.endpoint.url,
                created_at=self._clock.now(),
                created_by=actor,
            )
        )

    def _configured(self, stored: Stored) -> EndpointConfigured:
        """Return the record; raises `Invalid` when the provider or its published addresses are gone."""
        endpoint, limits = stored.endpoint, stored.tenant_limits
        settings = configuration.shown(endpoint.settings)
        if settings["allowed_ips"] == PROVIDER_RANGES:
            settings["allowed_ips"] = registry.get(stored.provider).webhook.ip_ranges
            if not settings["allowed_ips"]:
                raise Invalid("no_published_ranges", "the provider publishes no addresses any more")
        tenant_rate = RateLimit(per_s=limits["deliveries_per_s"], burst=int(limits["burst"])) if limits else None
        fields = settings | {
            "endpoint": endpoint.id,
            "connection": endpoint.connection,
            "provider": stored.provider,
            "tenant": stored.tenant,
            "url": endpoint.url,
            "lane": Lane(endpoint.lane),
            "secrets": tuple(_sealed(key) for key in reversed(stored.keys)),
            "options": {**stored.options, **settings["options"]},
            "state": endpoint.state,
            "tokens": tuple(
                EndpointToken(token=one.token, url=one.url, not_after=one.not_after) for one in stored.addresses
            ),
            "tenant_rate": tenant_rate,
            "version": endpoint.version,
        }
        return EndpointConfigured.model_validate(fields)

    def _record(self, uow: UnitOfWork, stored: Stored, actor: str, action: str, **detail: str) -> None:
        target = f"endpoint/{stored.endpoint.id}"
        self._audit.record(uow, actor, action, tenant=stored.tenant, target=target, **detail)


def _sealed(key: EndpointKey) -> SealedSecret:
    if key.sealed is None:
        raise ValueError("a key is sealed before its record is made")
    return SealedSecret(
        key_id=key.key_id,
        sealed=base64.b64encode(key.sealed).decode(),
        not_before=key.not_before,
        not_after=key.not_after,
    )


def _usable(provider: Provider, secrets: Mapping[str, str], field: str) -> None:
    """Raise `Invalid` that names `field` unless the provider's rules allow a connection with these secrets."""
    try:
        provider.check_secrets(secrets)
    except Invalid as error:
        raise Invalid(error.code, error.detail, field=field) from None


def _lasts(one: EndpointKey | EndpointAddress, now: datetime) -> bool:
    return one.not_after is None or now < one.not_after


def _live(found: list[Lasting], now: datetime) -> list[Lasting]:
    return [one for one in found if _lasts(one, now)]


def _remembered(addresses: list[EndpointAddress], now: datetime) -> list[EndpointAddress]:
    """Return what the record holds: the addresses that are served, and those that ended lately, newest last."""
    return _live(addresses, now - ADDRESS_MEMORY)[-MAX_ADDRESSES:]


def _begun(key: EndpointKey, now: datetime) -> bool:
    return key.not_before is None or key.not_before <= now


def _end(found: Sequence[EndpointKey | EndpointAddress], at: datetime) -> None:
    """Let all end at `at`, those that end earlier excepted."""
    for one in found:
        if _lasts(one, at):
            one.not_after = at
