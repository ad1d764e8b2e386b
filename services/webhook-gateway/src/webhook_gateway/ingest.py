"""The use case of the request path: verify, split, envelope, produce with acks=all, and only then say yes.

Must never touch a database, and never answer 2xx for something the broker does not have.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from opentelemetry.trace import SpanKind

from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from chassis.telemetry.traces import start_span, traceparent
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, DeliveryRejected, RejectionReason
from contracts.ids import entity_key, uuid7
from contracts.topics import GATEWAY_EVENTS, GATEWAY_REJECTIONS, Lane
from providers.sdk import InboundRequest, Refused, Verified, WebhookItem
from webhook_gateway.endpoints import Endpoint
from webhook_gateway.metrics import DELIVERIES, KEY_MATCHES, UNRECORDED

log = logger(__name__)

SOURCE: Final = "patchbay/webhook-gateway"
# A verified body that its manifest cannot read is still the provider's word: it is kept under this type.
UNREADABLE_TYPE: Final = "unreadable"
RETRY_AFTER_S: Final = 2
# Recording a refusal must not hold up the refusal.
RECORD_TIMEOUT_S: Final = 1.0
RECORDED_BODY_BYTES: Final = 64 * 1024
RECORDED_HEADER_CHARS: Final = 512
# Headers that are credentials by themselves; signatures are not, since they fit one body only.
_CREDENTIAL_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender gets. An empty body is what providers' onboarding checks want of a refusal."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Arrival:
    """One HTTP request to a known endpoint, before anything about it is believed."""

    endpoint: Endpoint
    request: InboundRequest
    received_at: datetime
    delivery: str = field(default_factory=lambda: str(uuid7()))


class Ingest:
    """Takes arrivals to the broker. One per process; safe for concurrent use."""

    def __init__(self, publisher: Publisher, clock: Clock, *, max_body_bytes: int, publish_timeout_s: float) -> None:
        self._publisher = publisher
        self._clock = clock
        self._max_body_bytes = max_body_bytes
        self._publish_timeout_s = publish_timeout_s

    async def accept(self, arrival: Arrival) -> Answer:
        """Verify a delivery and write its events; returns the answer that the provider expects.

        200 (or the manifest's status) only after every event is acknowledged by all replicas; 503 with `Retry-After`
        when that did not happen in time; the manifest's refusal status for anything that does not verify.
        """
        endpoint, webhook = arrival.endpoint, arrival.endpoint.provider.webhook
        try:
            verified = self._verify(arrival)
            body, encoding = self._decoded(arrival.request)
        except Refused as refused:
            status = 400 if refused.reason == "bad_encoding" else webhook.refused_status
            return await self.reject(arrival, refused.reason, 413 if refused.reason == "body_too_large" else status)
        with_parent = arrival.request.header("traceparent")
        span = start_span(
            f"receive {endpoint.provider.slug}",
            parent=with_parent,
            kind=SpanKind.PRODUCER,
            attributes={"patchbay.delivery": arrival.delivery, "patchbay.endpoint": endpoint.id},
        )
        try:
            items = self._split(arrival, body)
            await self._publish(arrival, verified, items, encoding, traceparent(span))
        except Transient as error:
            log.warning("delivery_not_written", delivery=arrival.delivery, code=error.code)
            counter(DELIVERIES).labels(endpoint.provider.slug, "unavailable").inc()
            return Answer(503, headers=(("retry-after", str(RETRY_AFTER_S)),))
        finally:
            span.end()
        counter(DELIVERIES).labels(endpoint.provider.slug, "accepted").inc()
        return Answer(webhook.success_status, webhook.success_body.encode())

    async def reject(self, arrival: Arrival, reason: RejectionReason, status: int) -> Answer:
        """Refuse a delivery and record why, for an operator to see and verify again; never records a credential.

        The sender gets the refusal even when the broker does not take the record; that is counted.
        """
        endpoint, configured = arrival.endpoint, arrival.endpoint.configured
        counter(DELIVERIES).labels(endpoint.provider.slug, reason).inc()
        rejected = DeliveryRejected(
            delivery=arrival.delivery,
            endpoint=endpoint.id,
            provider=endpoint.provider.slug,
            tenant=configured.tenant,
            connection=str(configured.connection),
            reason=reason,
            status=status,
            method=arrival.request.method,
            received_at=arrival.received_at,
            headers=tuple(_recordable(arrival.request)),
            body=base64.b64encode(arrival.request.body[:RECORDED_BODY_BYTES]).decode(),
            body_bytes=len(arrival.request.body),
        )
        envelope = Envelope(
            id=arrival.delivery,
            source=SOURCE,
            type=DeliveryRejected.TYPE,
            data=encode(rejected),
            extensions={"tenant": configured.tenant},
        )
        try:
            await self._publisher.publish(GATEWAY_REJECTIONS, endpoint.id, envelope, timeout_s=RECORD_TIMEOUT_S)
        except Transient:
            counter(UNRECORDED).inc()
        return Answer(status)

    def _verify(self, arrival: Arrival) -> Verified:
        endpoint = arrival.endpoint
        secrets = endpoint.secrets_at(arrival.received_at)
        verifier = endpoint.provider.verifier(endpoint.configured.options)
        verified = verifier.verify(arrival.request, secrets, arrival.received_at)
        position = next(index for index, secret in enumerate(secrets) if secret.key_id == verified.key_id)
        counter(KEY_MATCHES).labels(endpoint.provider.slug, str(position)).inc()
        return verified

    def _decoded(self, request: InboundRequest) -> tuple[bytes, Literal["", "gzip"]]:
        """Return the body without its content coding, bounded; raises `Refused` for a bad, foreign or huge one."""
        coding = (request.header("content-encoding") or "identity").strip().lower()
        if coding == "identity":
            return request.body, ""
        if coding != "gzip":
            raise Refused("bad_encoding")
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            # One byte more than allowed tells a body of exactly the limit from a larger one.
            plain = inflater.decompress(request.body, self._max_body_bytes + 1)
        except zlib.error:
            raise Refused("bad_encoding") from None
        if len(plain) > self._max_body_bytes:
            raise Refused("body_too_large")
        if not inflater.eof or inflater.unused_data:
            raise Refused("bad_encoding")
        return plain, "gzip"

    def _split(self, arrival: Arrival, body: bytes) -> list[WebhookItem]:
        request = arrival.request
        plain = request if body is request.body else InboundRequest(request.method, request.url, request.headers, body)
        try:
            return arrival.endpoint.provider.split(plain, arrival.endpoint.configured.options)
        except Invalid as error:
            log.warning("delivery_unreadable", delivery=arrival.delivery, code=error.code)
            return [WebhookItem(hashlib.sha256(request.body).hexdigest(), UNREADABLE_TYPE, None, request.body)]

    async def _publish(
        self,
        arrival: Arrival,
        verified: Verified,
        items: Sequence[WebhookItem],
        encoding: Literal["", "gzip"],
        trace: str,
    ) -> None:
        """Write all items or raise `Transient`: a batch is acknowledged as a whole, duplicates are the inbox's work."""
        digest = hashlib.sha256(arrival.request.body).hexdigest()
        sends = []
        unread = bool(items) and items[0].data is arrival.request.body
        count = len(items) if arrival.endpoint.provider.webhook.items == "array" and not unread else 0
        for index, item in enumerate(items):
            attributes = self._attributes(arrival, verified, item, (index, count), (encoding, digest))
            envelope = Envelope(
                id=item.event_id,
                source=f"{SOURCE}/{attributes.provider}/{attributes.connection}",
                type=DELIVERY_ACCEPTED,
                data=arrival.request.body if index == 0 else item.data,
                time=arrival.received_at,
                content_type=arrival.request.header("content-type") or "application/octet-stream",
                traceparent=trace,
                extensions=attributes.extensions(),
            )
            key = entity_key(attributes.tenant, *item.entity) if item.entity else arrival.endpoint.id
            topic = GATEWAY_EVENTS[Lane(attributes.lane)]
            sends.append(self._publisher.publish(topic, key, envelope, timeout_s=self._publish_timeout_s))
        await asyncio.gather(*sends)

    def _attributes(
        self,
        arrival: Arrival,
        verified: Verified,
        item: WebhookItem,
        place: tuple[int, int],
        body: tuple[Literal["", "gzip"], str],
    ) -> DeliveryAttributes:
        endpoint, configured = arrival.endpoint, arrival.endpoint.configured
        rule = endpoint.provider.webhook.lane_for(item.event_type)
        return DeliveryAttributes(
            delivery=arrival.delivery,
            provider=endpoint.provider.slug,
            endpoint=endpoint.id,
            connection=str(configured.connection),
            tenant=configured.tenant,
            lane=rule if configured.lane is Lane.STANDARD else configured.lane,
            event=item.event_id,
            eventtype=item.event_type,
            receivedat=arrival.received_at,
            verifiedat=self._clock.now(),
            keyid=verified.key_id,
            bodysha256=body[1],
            method=arrival.request.method,
            entity=":".join(item.entity) if item.entity else "",
            item=place[0],
            items=place[1],
            encoding=body[0],
            signed=verified.signed_headers,
        )


def _recordable(request: InboundRequest) -> list[tuple[str, str]]:
    return [
        (name, value[:RECORDED_HEADER_CHARS])
        for name, values in request.headers.items()
        if name not in _CREDENTIAL_HEADERS
        for value in values
    ]
