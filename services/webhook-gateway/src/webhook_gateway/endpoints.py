"""Webhook endpoints in memory, fed by `sync.endpoints.v1`; the only configuration that the request path needs.

An endpoint whose record cannot be read, or whose secret cannot be opened, answers as if it had no secret: fail closed.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from chassis.sealing import Keyring, SealError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.codec import decode
from contracts.envelope import SPEC_VERSION, Envelope
from contracts.errors import Invalid
from contracts.events.gateway import DELIVERY_ACCEPTED, delivery_source
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from providers import registry
from providers.lanes import Classifier
from providers.manifest import MtlsSignature
from providers.provider import Provider
from providers.sdk import Secret, Verifier
from providers.splitting import Splitter
from webhook_gateway.addresses import Network, networks
from webhook_gateway.answers import Answer, accepted, accepted_as
from webhook_gateway.metrics import ENDPOINTS

log = logger(__name__)

SOURCE: Final = "patchbay/webhook-gateway"


@dataclass(frozen=True, slots=True)
class LiveSecret:
    """An opened secret with its half-open validity window."""

    secret: Secret = field(repr=False)
    not_before: datetime | None
    not_after: datetime | None

    @property
    def always(self) -> bool:
        """The window has neither a beginning nor an end."""
        return self.not_before is None and self.not_after is None

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
    classifier: Classifier
    allowed: tuple[Network, ...]
    # Prepared for the request path: each would cost a microsecond or more every time.
    verifier: Verifier
    splitter: Splitter
    methods: frozenset[str]
    connection: str
    headers: tuple[tuple[str, bytes], ...]
    success: Answer
    # Some types want another answer than `success`: see `yes_to`.
    answers_by_type: bool
    may_be_critical: bool
    # The header in which a proxy names the client's certificate; empty for every other scheme.
    proxy_header: str

    def yes_to(self, event_type: str) -> Answer:
        """Return the answer to an accepted delivery whose first event is of this type."""
        wanted = self.provider.webhook.answer_for(event_type)
        return self.success if wanted is None else accepted_as(wanted)

    def secrets_at(self, now: datetime) -> list[Secret]:
        """Return the secrets that are valid at `now`, newest configuration first."""
        if len(self.secrets) == 1 and self.secrets[0].always:
            return [self.secrets[0].secret]
        return [live.secret for live in self.secrets if live.valid_at(now)]

    def position(self, key_id: str) -> int:
        """Return the place of a key in the configuration: 0 is the newest."""
        for place, live in enumerate(self.secrets):
            if live.secret.key_id == key_id:
                return place
        return 0


@dataclass(frozen=True, slots=True)
class Address:
    """One URL of an endpoint: what its provider has registered, and until when it is served."""

    endpoint: Endpoint
    url: str
    not_after: datetime | None = None


class EndpointRegistry:
    """All endpoints by the tokens of their URLs. `apply` is the state reader's callback; `get` is a look-up."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._endpoints: dict[str, Endpoint] = {}
        self._addresses: dict[str, Address] = {}

    def get(self, token: str) -> Address | None:
        """Return where a token leads, even when its time is over; None when it never led anywhere."""
        return self._addresses.get(token)

    def apply(self, key: str, envelope: Envelope | None) -> None:
        """Take one record: configure or remove an endpoint. An older version than the known one is ignored."""
        if envelope is None:
            self._remove(key)
        else:
            configured = decode(EndpointConfigured, envelope.data)
            known = self._endpoints.get(key)
            if known is None or configured.version > known.configured.version:
                self._remove(configured.endpoint)
                self._configure(configured)
        gauge(ENDPOINTS).set(len(self._endpoints))

    def _remove(self, endpoint_id: str) -> None:
        known = self._endpoints.pop(endpoint_id, None)
        if known is not None:
            for token in _tokens(known.configured):
                self._addresses.pop(token, None)

    def _configure(self, configured: EndpointConfigured) -> None:
        try:
            provider = registry.get(configured.provider)
            verifier = provider.verifier(configured.options)
            splitter = provider.splitter(configured.options)
            classifier = Classifier(provider, configured.lane, configured.lane_rules)
            allowed = networks(configured.allowed_ips)
        except (Invalid, ValueError, LookupError):
            log.error("endpoint_unusable", endpoint=configured.endpoint, provider=configured.provider)
            return
        opened = (self._open(configured, sealed) for sealed in configured.secrets)
        secrets = tuple(live for live in opened if live is not None)
        connection = str(configured.connection)
        endpoint = Endpoint(
            id=configured.endpoint,
            provider=provider,
            configured=configured,
            secrets=secrets,
            classifier=classifier,
            allowed=allowed,
            verifier=verifier,
            splitter=splitter,
            methods=frozenset(provider.webhook.accepted_methods),
            connection=connection,
            headers=(
                ("ce_specversion", SPEC_VERSION.encode()),
                ("ce_type", DELIVERY_ACCEPTED.encode()),
                ("ce_source", delivery_source(provider.slug, connection).encode()),
                ("ce_provider", provider.slug.encode()),
                ("ce_endpoint", configured.endpoint.encode()),
                ("ce_connection", connection.encode()),
            ),
            success=accepted(provider.webhook),
            answers_by_type=bool(provider.webhook.answers),
            may_be_critical=classifier.may_be_critical,
            proxy_header=_proxy_header(provider, configured.options),
        )
        self._endpoints[endpoint.id] = endpoint
        for token, (url, not_after) in _tokens(configured).items():
            self._addresses[token] = Address(endpoint, url, not_after)

    def _open(self, configured: EndpointConfigured, sealed: SealedSecret) -> LiveSecret | None:
        place = endpoint_secret_place(configured.tenant, configured.endpoint, sealed.key_id)
        try:
            value = self._keyring.open(base64.b64decode(sealed.sealed, validate=True), place)
        except (SealError, binascii.Error) as error:
            log.error("endpoint_secret_not_opened", endpoint=configured.endpoint, key_id=sealed.key_id, why=str(error))
            return None
        return LiveSecret(Secret(sealed.key_id, value), sealed.not_before, sealed.not_after)


def _tokens(configured: EndpointConfigured) -> dict[str, tuple[str, datetime | None]]:
    """Return the address and the end of each token; without any the endpoint's id is one that never ends."""
    tokens = {token.token: (token.url or configured.url, token.not_after) for token in configured.tokens}
    return tokens or {configured.endpoint: (configured.url, None)}


def _proxy_header(provider: Provider, options: dict[str, str]) -> str:
    signature = provider.signature(options)
    return options.get(signature.header_option, "") if isinstance(signature, MtlsSignature) else ""
