"""Requests that are no deliveries: challenges, pings, confirmations. Answered on the endpoint's own URL.

Must never let an unverified request change a secret, nor fetch an address of a delivery's choosing.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from chassis.kafka.producer import Publisher
from chassis.sealing import Keyring
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import bound_counter
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.gateway import EndpointCodeOffered, endpoint_code_place
from contracts.topics import GATEWAY_CODES
from providers.sdk import Refused
from webhook_gateway.answers import Answer, unavailable
from webhook_gateway.arrival import Arrival
from webhook_gateway.endpoints import SOURCE
from webhook_gateway.keys import KeyCache
from webhook_gateway.metrics import HANDSHAKES
from webhook_gateway.rejections import Rejections
from webhook_gateway.verification import Gate

log = logger(__name__)

# Confirmations are made after the answer: a vendor whose own address is slow must not make us slow.
MAX_CONFIRMATIONS: Final = 16
OFFER_TIMEOUT_S: Final = 1.8


class Handshakes:
    """Answers handshakes; a delivery of a provider without any costs one attribute look-up."""

    def __init__(
        self, gate: Gate, keys: KeyCache, rejections: Rejections, publisher: Publisher, keyring: Keyring
    ) -> None:
        self._gate = gate
        self._keys = keys
        self._rejections = rejections
        self._publisher = publisher
        self._keyring = keyring
        self._confirming: set[asyncio.Task[None]] = set()

    async def reply(self, arrival: Arrival) -> Answer | None:
        """Return the answer to a handshake, None for a delivery."""
        webhook = arrival.endpoint.provider.webhook
        if not webhook.handshakes:
            return None
        try:
            reply = await self._gate.handshake(arrival)
        except Refused as refused:
            status = 403 if refused.reason == "handshake_refused" else webhook.refused_status
            await self._rejections.record(arrival, refused.reason, status)
            return Answer(status)
        except Transient as error:
            await self._rejections.record(arrival, "key_unavailable", 503)
            return unavailable(error.detail)
        if reply is None:
            return None
        bound_counter(HANDSHAKES, arrival.endpoint.provider.slug, reply.name).inc()
        log.info("handshake_answered", endpoint=arrival.endpoint.id, handshake=reply.name)
        if reply.learned_secret is not None and not await self._offer(arrival, reply.learned_secret):
            return unavailable("the code could not be kept; send it again")
        if reply.confirm_url is not None and len(self._confirming) < MAX_CONFIRMATIONS:
            task = asyncio.create_task(self._confirm(arrival, reply.confirm_url))
            self._confirming.add(task)
            task.add_done_callback(self._confirming.discard)
        return Answer(reply.status, reply.body, reply.headers)

    async def drain(self) -> None:
        """Wait for confirmations under way."""
        await asyncio.gather(*self._confirming)

    async def _offer(self, arrival: Arrival, code: str) -> bool:
        """Keep a code that the provider sent for an operator to see, sealed: it may become the endpoint's secret."""
        configured = arrival.endpoint.configured
        place = endpoint_code_place(configured.tenant, configured.endpoint)
        offered = EndpointCodeOffered(
            endpoint=configured.endpoint,
            tenant=configured.tenant,
            provider=configured.provider,
            sealed=base64.b64encode(self._keyring.seal(code, place)).decode(),
            received_at=arrival.received_at,
        )
        envelope = Envelope(
            id=arrival.delivery,
            source=SOURCE,
            type=offered.TYPE,
            data=encode(offered),
            extensions={"tenant": configured.tenant},
        )
        try:
            await self._publisher.publish(GATEWAY_CODES, configured.endpoint, envelope, timeout_s=OFFER_TIMEOUT_S)
        except Transient:
            return False
        return True

    async def _confirm(self, arrival: Arrival, url: str) -> None:
        try:
            await self._keys.confirm(url)
        except Transient as error:
            # The provider asks again by itself, or an operator does at the provider.
            log.warning("confirmation_failed", endpoint=arrival.endpoint.id, code=error.code)
        else:
            log.info("confirmation_sent", endpoint=arrival.endpoint.id)
