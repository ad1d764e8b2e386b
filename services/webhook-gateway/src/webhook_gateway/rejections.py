"""Records of refused deliveries, for an operator to see and verify again; a flood is counted whole and sampled.

Must never record a credential, and never hold up or change the refusal: it is given even when nothing can be written.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.telemetry.metrics import bound_counter
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.base import Event
from contracts.events.gateway import DeliveryRejected, DeliveryRepeated, RejectionReason
from contracts.topics import GATEWAY_REJECTIONS
from providers.sdk import InboundRequest
from webhook_gateway.arrival import Arrival
from webhook_gateway.endpoints import SOURCE
from webhook_gateway.hidden import credentials_of
from webhook_gateway.limits import Rate
from webhook_gateway.metrics import DELIVERIES, SAMPLED_OUT, UNRECORDED

RECORD_TIMEOUT_S: Final = 1.0
RECORDED_BODY_BYTES: Final = 64 * 1024
RECORDED_HEADER_CHARS: Final = 512
RECORDED_HEADERS: Final = 100
# Per endpoint; a hundred examples tell an operator as much as a million do.
RECORDED_PER_S: Final = 5.0
RECORDED_BURST: Final = 100
# Headers that are credentials by themselves; signatures are not, since they fit one body only.
_CREDENTIAL_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class Rejections:
    """Writes what was not accepted to `gateway.rejections.v1`."""

    def __init__(self, publisher: Publisher, clock: Clock) -> None:
        self._publisher = publisher
        self._clock = clock
        self._rates: dict[str, Rate] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def record(self, arrival: Arrival, reason: RejectionReason, status: int) -> None:
        """Record a refusal and return once it is durable, or once it is clear that it will not be in time."""
        provider, endpoint = arrival.endpoint.provider.slug, arrival.endpoint.id
        bound_counter(DELIVERIES, provider, reason).inc()
        rate = self._rates.setdefault(endpoint, Rate(RECORDED_PER_S, RECORDED_BURST))
        if not rate.allow(self._clock.monotonic()):
            bound_counter(SAMPLED_OUT, provider).inc()
            return
        request, configured = arrival.request, arrival.endpoint.configured
        own = credentials_of(provider, tuple(sorted(configured.options.items()))).headers
        rejected = DeliveryRejected(
            delivery=arrival.delivery,
            endpoint=endpoint,
            provider=provider,
            tenant=configured.tenant,
            connection=str(configured.connection),
            reason=reason,
            status=status,
            method=request.method,
            received_at=arrival.received_at,
            headers=tuple(_recordable(request, _CREDENTIAL_HEADERS | own)),
            body=base64.b64encode(request.body[:RECORDED_BODY_BYTES]).decode(),
            body_bytes=len(request.body),
        )
        await self._write(endpoint, arrival.delivery, rejected, configured.tenant)

    def record_repeat(self, repeated: DeliveryRepeated) -> None:
        """Record a repeat without waiting: its first delivery is durable, and losing the note loses no event."""
        task = asyncio.create_task(self._write(repeated.endpoint, repeated.delivery, repeated, repeated.tenant))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def drain(self) -> None:
        """Wait for the repeats that are still being written."""
        await asyncio.gather(*self._writing)

    async def _write(self, key: str, identifier: str, event: Event, tenant: str) -> None:
        envelope = Envelope(
            id=identifier, source=SOURCE, type=event.TYPE, data=encode(event), extensions={"tenant": tenant}
        )
        try:
            await self._publisher.publish(GATEWAY_REJECTIONS, key, envelope, timeout_s=RECORD_TIMEOUT_S)
        except Transient:
            bound_counter(UNRECORDED).inc()


def _recordable(request: InboundRequest, credentials: frozenset[str]) -> list[tuple[str, str]]:
    return [
        (name, value[:RECORDED_HEADER_CHARS])
        for name, values in request.headers.items()
        if name not in credentials
        for value in values
    ][:RECORDED_HEADERS]
