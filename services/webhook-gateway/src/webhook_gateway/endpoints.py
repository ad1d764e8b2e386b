"""Webhook endpoints in memory, fed by `sync.endpoints.v1`; the only configuration that the request path needs.

An endpoint whose record cannot be read, or whose secret cannot be opened, answers as if it had no secret: fail closed.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime

from chassis.sealing import Keyring, SealError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from providers import registry
from providers.provider import Provider
from providers.sdk import Secret
from webhook_gateway.metrics import ENDPOINTS

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """An opened secret with its half-open validity window."""

    secret: Secret = field(repr=False)
    not_before: datetime | None
    not_after: datetime | None

    def valid_at(self, now: datetime) -> bool:
        """Tell whether the secret may verify a delivery that arrives at `now`."""
        return (self.not_before is None or self.not_before <= now) and (self.not_after is None or now < self.not_after)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint, ready to verify deliveries."""

    id: str
    provider: Provider
    configured: EndpointConfigured
    secrets: tuple[LiveSecret, ...]

    def secrets_at(self, now: datetime) -> list[Secret]:
        """Return the secrets that are valid at `now`, newest configuration first."""
        return [live.secret for live in self.secrets if live.valid_at(now)]


class EndpointRegistry:
    """All endpoints by id. `apply` is the state reader's callback; `get` is a dictionary look-up."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._endpoints: dict[str, Endpoint] = {}

    def get(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint, or None when there is none of this id."""
        return self._endpoints.get(endpoint_id)

    def apply(self, key: str, envelope: Envelope | None) -> None:
        """Take one record: configure or remove an endpoint. An older version than the known one is ignored."""
        if envelope is None:
            self._endpoints.pop(key, None)
        else:
            configured = decode(EndpointConfigured, envelope.data)
            known = self._endpoints.get(key)
            if known is None or configured.version > known.configured.version:
                self._configure(configured)
        gauge(ENDPOINTS).set(len(self._endpoints))

    def _configure(self, configured: EndpointConfigured) -> None:
        try:
            provider = registry.get(configured.provider)
            provider.verifier(configured.options)
        except (Invalid, ValueError):
            log.error("endpoint_unusable", endpoint=configured.endpoint, provider=configured.provider)
            self._endpoints.pop(configured.endpoint, None)
            return
        opened = (self._open(configured, sealed) for sealed in configured.secrets)
        secrets = tuple(live for live in opened if live is not None)
        self._endpoints[configured.endpoint] = Endpoint(configured.endpoint, provider, configured, secrets)

    def _open(self, configured: EndpointConfigured, sealed: SealedSecret) -> LiveSecret | None:
        place = endpoint_secret_place(configured.tenant, configured.endpoint, sealed.key_id)
        try:
            value = self._keyring.open(base64.b64decode(sealed.sealed, validate=True), place)
        except (SealError, binascii.Error) as error:
            log.error("endpoint_secret_not_opened", endpoint=configured.endpoint, key_id=sealed.key_id, why=str(error))
            return None
        return LiveSecret(Secret(sealed.key_id, value), sealed.not_before, sealed.not_after)
