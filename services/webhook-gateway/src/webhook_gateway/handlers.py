"""The ledger role's consumers: gateway topics into deliveries, downstream topics into the trail of effects.

Idempotent: a record that comes again changes nothing and is counted once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from chassis.telemetry.metrics import counter
from chassis.telemetry.traces import parse_traceparent
from contracts.codec import decode
from contracts.errors import Invalid
from contracts.events.base import Event
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, DeliveryRejected, DeliveryRepeated
from contracts.events.orchestrator import SagaAdvanced
from contracts.events.sync import CommandAnswered, PaymentChanged
from providers import cards
from webhook_gateway import privacy
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.metrics import LEDGER_DELIVERIES
from webhook_gateway.models import Effect
from webhook_gateway.repository import analytics, deliveries, effects, issues
from webhook_gateway.stored import Delivery

# Larger bodies are kept, and not searched by JSON path: their index entries would outweigh them.
MAX_DOCUMENT_BYTES: Final = 64 * 1024

Listener = Callable[[Sequence[Delivery], datetime], None]


class Handlers:
    """What the consumer groups of the ledger call; `listeners` hear of stored deliveries after their commit."""

    def __init__(self, book: EndpointBook, clock: Clock, listeners: Sequence[Listener] = ()) -> None:
        self._book = book
        self._clock = clock
        self._listeners = tuple(listeners)

    async def store(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Store deliveries, saying of each whether its event was accepted before, and count those that are new."""
        by_place = {(d.id, d.item, d.received_at): d for d in (self._delivery(message) for message in messages)}
        stored = list(by_place.values())
        await self._judge(uow, stored)
        await deliveries.released(uow.connection, [d for d in stored if _is_release(d)])
        places = await deliveries.insert(uow.connection, stored)
        new = [delivery for place, delivery in by_place.items() if place in places]
        await analytics.hear(uow.connection, new)
        await issues.report(uow.connection, list(_conflicts(new)))
        await analytics.count(uow.connection, new)
        uow.after_commit(lambda: self._tell(new))

    async def trace(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Store what services did because of deliveries; a message of another type is not of interest."""
        found = (_effect(message) for message in messages)
        await effects.insert(uow.connection, [effect for effect in found if effect is not None])

    def _delivery(self, message: Message) -> Delivery:
        kind = message.envelope.type
        if kind == DELIVERY_ACCEPTED:
            return self._accepted(message)
        if kind == DeliveryRepeated.TYPE:
            return _repeated(message)
        return _rejected(message)

    def _accepted(self, message: Message) -> Delivery:
        attributes = DeliveryAttributes.of(message.envelope)
        data = message.envelope.data
        own = _own_bytes(attributes, data)
        return Delivery(
            id=UUID(attributes.delivery),
            item=attributes.item,
            outcome={"": "accepted", "paused": "held"}.get(attributes.quarantine, attributes.quarantine),
            provider=attributes.provider,
            tenant=attributes.tenant,
            endpoint=attributes.endpoint,
            connection=UUID(attributes.connection),
            lane=attributes.lane,
            origin=attributes.origin,
            replay=attributes.replay,
            event_id=_text(attributes.event),
            event_type=_text(attributes.eventtype),
            event_sha256=_event_hash(attributes, own),
            api_version=_text(attributes.apiversion),
            entity=_text(attributes.entity),
            items=attributes.items,
            method=attributes.method,
            key_id=attributes.keyid,
            received_at=attributes.receivedat,
            verified_at=attributes.verifiedat,
            message_id=_text(message.envelope.id),
            source=message.envelope.source,
            record_key=_text(message.text_key),
            headers=[list(pair) for pair in attributes.signed],
            content_type=_text(message.envelope.content_type),
            encoding=attributes.encoding,
            cards=attributes.cards,
            body=data,
            body_bytes=len(data),
            body_sha256=attributes.bodysha256,
            claim=attributes.claim,
            place=attributes.place,
            document=_document(own, self._book.hidden(attributes.endpoint, attributes.provider).pointers),
            **_position(message),
        )

    async def _judge(self, uow: UnitOfWork, stored: Sequence[Delivery]) -> None:
        """Mark an accepted delivery as duplicate or conflict when its event came before with the same or another body.

        A released one was judged when it was held back.
        """
        open_ones = [d for d in stored if d.outcome == "accepted" and not _is_release(d)]
        if not open_ones:
            return
        since = min(delivery.received_at for delivery in open_ones)
        events = [(delivery.endpoint, delivery.event_id) for delivery in open_ones]
        known = await deliveries.known_events(uow.connection, events, since)
        for delivery in open_ones:
            event = (delivery.endpoint, delivery.event_id)
            first = known.get(event)
            if first is None:
                known[event] = deliveries.KnownEvent(delivery.id, delivery.event_sha256, delivery.origin)
            elif first.delivery != delivery.id:
                # A vendor's list need not spell an event as its webhook did, byte for byte.
                alike = _same(first.sha256, delivery.event_sha256) or "reconcile" in (first.origin, delivery.origin)
                delivery.outcome = "duplicate" if alike else "conflict"
                delivery.first_delivery = first.delivery

    def _tell(self, new: Sequence[Delivery]) -> None:
        for delivery in new:
            counter(LEDGER_DELIVERIES).labels(delivery.outcome).inc()
        for listener in self._listeners:
            listener(new, self._clock.now())


def _rejected(message: Message) -> Delivery:
    rejected = decode(DeliveryRejected, message.envelope.data)
    body = base64.b64decode(rejected.body)
    return Delivery(
        id=UUID(rejected.delivery),
        item=0,
        outcome="rejected",
        reason=rejected.reason,
        status=rejected.status,
        provider=rejected.provider,
        tenant=rejected.tenant,
        endpoint=rejected.endpoint,
        connection=UUID(rejected.connection),
        method=rejected.method,
        received_at=rejected.received_at,
        headers=[list(pair) for pair in rejected.headers],
        content_type=dict(rejected.headers).get("content-type", ""),
        body=body,
        body_bytes=max(rejected.body_bytes, len(body)),
        body_sha256=hashlib.sha256(body).hexdigest(),
        **_position(message),
    )


def _repeated(message: Message) -> Delivery:
    """Return the row of a repeat that the gateway acknowledged without writing it to a lane; it has no body."""
    repeated = decode(DeliveryRepeated, message.envelope.data)
    return Delivery(
        id=UUID(repeated.delivery),
        item=repeated.item,
        outcome="duplicate",
        provider=repeated.provider,
        tenant=repeated.tenant,
        endpoint=repeated.endpoint,
        connection=UUID(repeated.connection),
        first_delivery=UUID(repeated.first_delivery) if repeated.first_delivery else None,
        event_id=_text(repeated.event),
        event_type=_text(repeated.event_type),
        key_id=repeated.key_id,
        received_at=repeated.received_at,
        body_sha256=repeated.body_sha256,
        **_position(message),
    )


def _effect(message: Message) -> Effect | None:
    read = _EFFECTS.get(message.envelope.type)
    if read is None:
        return None
    model, facts = read
    return Effect(
        topic=message.origin.topic,
        partition=message.origin.partition,
        offset=message.origin.offset,
        at=message.envelope.time,
        trace_id=_trace_id(message),
        tenant=message.envelope.tenant,
        # The source names the service that wrote the message: patchbay/<service>.
        service=message.envelope.source.removeprefix("patchbay/").partition("/")[0],
        **facts(decode(model, message.envelope.data)),
    )


def _payment_facts(event: Any) -> dict[str, str]:
    return {"kind": event.TYPE, "ref": str(event.payment_id), "status": event.status, "cause": event.cause}


def _answer_facts(event: Any) -> dict[str, str]:
    return {"kind": event.TYPE, "ref": f"{event.saga_id}:{event.step}", "status": event.status, "cause": ""}


def _saga_facts(event: Any) -> dict[str, str]:
    status = f"{event.status}: {event.entry} {event.step}".rstrip()
    return {"kind": event.TYPE, "ref": str(event.saga_id), "status": status, "cause": ""}


_EFFECTS: Final[dict[str, tuple[type[Event], Callable[[Any], dict[str, str]]]]] = {
    PaymentChanged.TYPE: (PaymentChanged, _payment_facts),
    CommandAnswered.TYPE: (CommandAnswered, _answer_facts),
    SagaAdvanced.TYPE: (SagaAdvanced, _saga_facts),
}


def _position(message: Message) -> dict[str, Any]:
    return {
        "topic": message.origin.topic,
        "partition": message.origin.partition,
        "offset": message.origin.offset,
        "trace_id": _trace_id(message),
        "traceparent": message.envelope.traceparent or "",
    }


def _trace_id(message: Message) -> str:
    context = parse_traceparent(message.envelope.traceparent)
    return f"{context.trace_id:032x}" if context else ""


def _text(value: str) -> str:
    """Return a sender's text as PostgreSQL can hold it: without the character NUL."""
    return value.replace("\0", "\ufffd")


def _own_bytes(attributes: DeliveryAttributes, data: bytes) -> bytes:
    """Return the event's own bytes; the whole value when they cannot be found in it."""
    try:
        return attributes.payload(data)
    except Invalid:
        return data


def _event_hash(attributes: DeliveryAttributes, own: bytes) -> str:
    """Return what repeats of an event are compared by: the gateway's fingerprint, or else a hash of what is here."""
    if attributes.fingerprint:
        return attributes.fingerprint
    return hashlib.sha256(own).hexdigest() if _is_part(attributes) else attributes.bodysha256


def _same(one: str, other: str) -> bool:
    """Compare what `_event_hash` returned: a fingerprint is the first half of the hash, where nothing is volatile."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _is_part(attributes: DeliveryAttributes) -> bool:
    """Tell whether the request's hash says nothing about the event: it is one of a batch, or compressed."""
    return not attributes.claim and (attributes.items > 0 or bool(attributes.encoding))


def _document(own: bytes, pointers: Sequence[str]) -> Any:
    """Return a body as JSON for the search by path, redacted and without card numbers; None for any other body."""
    if len(own) > MAX_DOCUMENT_BYTES:
        return None
    try:
        return privacy.redact(orjson.loads(cards.mask(own)), pointers)
    except orjson.JSONDecodeError:
        return None


def _is_release(delivery: Delivery) -> bool:
    """Tell whether a record comes from the quarantine: written by the ledger, and never before in a lane."""
    return bool(delivery.replay) and delivery.origin == "webhook"


def _conflicts(new: Iterable[Delivery]) -> Iterable[issues.Report]:
    for delivery in new:
        if delivery.outcome == "conflict":
            yield issues.Report(
                kind="conflict",
                subject=delivery.endpoint,
                at=delivery.received_at,
                tenant=delivery.tenant,
                provider=delivery.provider,
                endpoint=delivery.endpoint,
                detail={"delivery": str(delivery.id), "event": delivery.event_id},
            )
