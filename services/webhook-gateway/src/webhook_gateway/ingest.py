"""The use case of the request path: verify, split, classify, look, produce with acks=all, mark, and only then say yes.

Must never touch a database, and never answer 2xx for something the broker does not have.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from opentelemetry.trace import SpanKind

from chassis.claims import ClaimStore
from chassis.clock import Clock
from chassis.kafka.producer import Publisher
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import bound_counter
from chassis.telemetry.traces import begin_trace
from contracts.errors import Invalid, Transient
from contracts.events.gateway import UNREADABLE_TYPE
from contracts.topics import GATEWAY_EVENTS, Lane
from providers.cards import find_cards, mask
from providers.sdk import InboundRequest, Refused, Verified, WebhookItem
from providers.tenants import tenant_of
from webhook_gateway.admission import Admission
from webhook_gateway.answers import Answer, problem, too_many, unavailable
from webhook_gateway.arrival import Arrival
from webhook_gateway.dedup import DedupMemory, Seen, event_key, fingerprint
from webhook_gateway.endpoints import Endpoint
from webhook_gateway.metrics import CARDS, CONFLICTS, DELIVERIES, KEY_MATCHES, REPEATED
from webhook_gateway.records import Body, Event, Record, is_xml, records, repeated
from webhook_gateway.rejections import Rejections
from webhook_gateway.verification import Gate

log = logger(__name__)

# Longer than any horizon that is published (75 h), for providers that publish none.
UNKNOWN_HORIZON_H: Final = 96.0
# On top of the provider's own horizon: a retry may wait in its queue, and we may be away for a day.
HORIZON_MARGIN_H: Final = 24.0
SHED_RETRY_S: Final = 30.0
_CRITICAL_TOPIC: Final = GATEWAY_EVENTS[Lane.CRITICAL].name
# Refusals that every provider gets alike, since they are no verdict on a signature.
_STATUS: Final = {"bad_encoding": 400, "body_too_large": 413}
_WHY: Final = {
    "bad_encoding": "the content coding is unknown or broken",
    "body_too_large": "the body is too large once decompressed",
}


@dataclass(frozen=True, slots=True)
class Ports:
    """What the use case talks to. `critical` is a producer of its own: its records wait behind nobody's batches."""

    publisher: Publisher
    critical: Publisher
    gate: Gate
    memory: DedupMemory
    admission: Admission
    rejections: Rejections
    claims: ClaimStore
    clock: Clock


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes: of a body once decompressed, and of a body that still goes into a record rather than the claim store."""

    body: int
    inline: int


class Ingest:
    """Takes arrivals to the broker. One per process; safe for concurrent use. The caller bounds the time."""

    def __init__(self, ports: Ports, limits: Limits) -> None:
        self._ports = ports
        self._limits = limits

    async def accept(self, arrival: Arrival) -> Answer:
        """Verify a delivery and write its events; returns the answer that the provider expects.

        The manifest's success only after every event is acknowledged by all replicas; 503 with `Retry-After` when the
        broker refuses; the manifest's refusal status for anything that does not verify.
        """
        endpoint = arrival.endpoint
        try:
            verified = await self._ports.gate.verify(arrival)
            body = self._body(arrival)
        except Refused as refused:
            return await self._refuse(arrival, refused)
        except Transient as error:
            # The vendor's key could not be fetched: a fault that passes, so the sender is asked to come back.
            await self._ports.rejections.record(arrival, "key_unavailable", 503)
            return unavailable(error.detail)
        self._count_key(arrival, verified)
        events = [self._event(arrival, body, item) for item in self._split(arrival, body.plain)]
        if self._sheds(endpoint, events):
            await self._ports.rejections.record(arrival, "shed", 429)
            return too_many("shed", "bulk is not taken now; send it again later", SHED_RETRY_S)
        trace, span = begin_trace(
            "receive",
            parent=_first(arrival.request.headers.get("traceparent")),
            kind=SpanKind.PRODUCER,
            attributes={"patchbay.delivery": arrival.delivery, "patchbay.endpoint": endpoint.id},
        )
        try:
            await self._write(arrival, verified, body, events, trace)
        except Transient as error:
            return self.not_written(arrival, error.code)
        finally:
            if span is not None:
                span.end()
        bound_counter(DELIVERIES, endpoint.provider.slug, "accepted").inc()
        return endpoint.yes_to(events[0].item.event_type) if endpoint.answers_by_type and events else endpoint.success

    def not_written(self, arrival: Arrival, code: str) -> Answer:
        """Count a delivery that the broker did not take, in time or at all, and return 503."""
        log.warning("delivery_not_written", delivery=arrival.delivery, code=code)
        outcome = code if code == "claim_store_unavailable" else "unavailable"
        bound_counter(DELIVERIES, arrival.endpoint.provider.slug, outcome).inc()
        return unavailable("the event could not be written; send it again")

    async def _refuse(self, arrival: Arrival, refused: Refused) -> Answer:
        status = _STATUS.get(refused.reason, arrival.endpoint.provider.webhook.refused_status)
        await self._ports.rejections.record(arrival, refused.reason, status)
        if refused.reason in _STATUS:
            return problem(status, refused.reason, _WHY[refused.reason])
        return Answer(status)

    def _sheds(self, endpoint: Endpoint, events: Sequence[Event]) -> bool:
        """Tell whether a delivery of nothing but bulk is over what may come in, and its provider comes back later."""
        if not events or events[0].lane is not Lane.BULK or not endpoint.provider.webhook.comes_back:
            return False
        return all(event.lane is Lane.BULK for event in events) and self._ports.admission.sheds(Lane.BULK)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _body(self, arrival: Arrival) -> Body:
        """Return the body without its content coding, bounded, and what is to be written of it.

        Raises `Refused` for a bad or foreign coding, and for a body over the limit once decompressed.
        """
        raw = arrival.request.body
        plain, encoding = self._decoded(arrival.request)
        body = Body(plain, raw, encoding, hashlib.sha256(raw).hexdigest())
        body.cards = len(find_cards(plain))
        if body.cards:
            bound_counter(CARDS, arrival.endpoint.provider.slug).inc()
            if arrival.endpoint.configured.card_numbers == "mask":
                body.plain = body.written = mask(plain)
                body.encoding = ""
        return body

    def _decoded(self, request: InboundRequest) -> tuple[bytes, Literal["", "gzip"]]:
        given = request.headers.get("content-encoding")
        coding = given[-1].strip().lower() if given else "identity"
        if coding == "identity":
            return request.body, ""
        if coding != "gzip":
            raise Refused("bad_encoding")
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            # One byte more than allowed tells a body of exactly the limit from a larger one.
            plain = inflater.decompress(request.body, self._limits.body + 1)
        except zlib.error:
            raise Refused("bad_encoding") from None
        if len(plain) > self._limits.body:
            raise Refused("body_too_large")
        if not inflater.eof or inflater.unused_data:
            raise Refused("bad_encoding")
        return plain, "gzip"

    def _split(self, arrival: Arrival, plain: bytes) -> list[WebhookItem]:
        request = arrival.request
        if plain is not request.body:
            request = InboundRequest(request.method, request.url, request.headers, plain)
        try:
            return arrival.endpoint.splitter.split(request)
        except Invalid as error:
            log.warning("delivery_unreadable", delivery=arrival.delivery, code=error.code)
            return [WebhookItem(hashlib.sha256(arrival.request.body).hexdigest(), UNREADABLE_TYPE, None, plain)]

    def _event(self, arrival: Arrival, body: Body, item: WebhookItem) -> Event:
        endpoint = arrival.endpoint
        identity = endpoint.provider.identity(item)
        hashed = body.sha256 if identity is arrival.request.body else ""
        tenant = tenant_of(endpoint.configured.tenant, endpoint.configured.tenant_routes, item)
        return Event(
            item=item,
            tenant=tenant,
            lane=endpoint.classifier.lane(item, arrival.received_at),
            key=event_key(tenant, endpoint.id, item.event_id),
            seen=Seen(arrival.delivery, fingerprint(identity, hashed)),
        )

    @staticmethod
    def _count_key(arrival: Arrival, verified: Verified) -> None:
        position = arrival.endpoint.position(verified.key_id)
        bound_counter(KEY_MATCHES, arrival.endpoint.provider.slug, str(position)).inc()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(
        self, arrival: Arrival, verified: Verified, body: Body, events: Sequence[Event], trace: str
    ) -> None:
        """Write all events or raise: a batch is acknowledged as a whole, and what lands twice is the inbox's work."""
        memory = self._ports.memory
        await self._look(events)
        # A batch of which anything is new is written whole: item 0 carries the request that all others belong to.
        if events and all(event.repeats for event in events):
            for item, event in enumerate(events):
                bound_counter(REPEATED, arrival.endpoint.provider.slug).inc()
                self._ports.rejections.record_repeat(repeated(arrival, verified, body, event, item))
            return
        body.beside = is_xml(events, body)
        if body.beside or len(body.written) > self._limits.inline:
            body.claim = await self._ports.claims.put(body.written)
        if body.beside or (len(events) > 1 and len(body.plain) > self._limits.inline):
            await self._claim_large(events, body)
        written = records(arrival, verified, body, events, trace=trace, now=self._ports.clock.now())
        if len(written) == 1:
            await self._produce(written[0])
        else:
            await asyncio.gather(*(self._produce(record) for record in written))
        retries = arrival.endpoint.provider.webhook.retries
        horizon_h = UNKNOWN_HORIZON_H if retries is None else retries.horizon_h
        for event in events:
            if event.conflicts:
                bound_counter(CONFLICTS, arrival.endpoint.provider.slug).inc()
            elif event.known is None:
                memory.mark(event.key, event.seen, int((horizon_h + HORIZON_MARGIN_H) * 3600))

    async def _claim_large(self, events: Sequence[Event], body: Body) -> None:
        """Put events that no record could hold beside their body; the first one of JSON is found in the body itself."""
        for event in events if body.beside else events[1:]:
            if len(event.item.data) > self._limits.inline:
                event.claim = await self._ports.claims.put(event.item.data)

    async def _look(self, events: Sequence[Event]) -> None:
        """Learn what is known of the events; asks for all of them at once."""
        memory = self._ports.memory
        if len(events) == 1:
            events[0].known = await memory.look(events[0].key)
            return
        found = await asyncio.gather(*(memory.look(event.key) for event in events))
        for event, known in zip(events, found, strict=True):
            event.known = known

    async def _produce(self, record: Record) -> None:
        publisher = self._ports.critical if record.topic == _CRITICAL_TOPIC else self._ports.publisher
        await publisher.write(record.topic, record.key, record.value, record.headers)


def _first(values: Sequence[str] | None) -> str | None:
    return values[0] if values else None
