"""The ledger role's consumer: gateway topics into the ledger's table. Idempotent by request and item."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from uuid import UUID

from chassis.db.database import UnitOfWork
from chassis.kafka.records import Message
from chassis.telemetry.traces import parse_traceparent
from contracts.codec import decode
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryAttributes, DeliveryRejected
from webhook_gateway import repository
from webhook_gateway.models import Delivery


async def store(uow: UnitOfWork, messages: Sequence[Message]) -> None:
    """Store deliveries, marking an accepted one as duplicate when its event was accepted before."""
    deliveries = [_accepted(m) if m.envelope.type == DELIVERY_ACCEPTED else _rejected(m) for m in messages]
    events = [(d.endpoint, d.event_id) for d in deliveries if d.outcome == "accepted"]
    known = await repository.known_events(uow.connection, events)
    for delivery in deliveries:
        if delivery.outcome == "accepted":
            event = (delivery.endpoint, delivery.event_id)
            if event in known:
                delivery.outcome = "duplicate"
            known.add(event)
    await repository.insert(uow.connection, deliveries)


def _accepted(message: Message) -> Delivery:
    attributes = DeliveryAttributes.of(message.envelope)
    return Delivery(
        id=UUID(attributes.delivery),
        item=attributes.item,
        outcome="accepted",
        reason="",
        status=None,
        provider=attributes.provider,
        tenant=attributes.tenant,
        endpoint=attributes.endpoint,
        connection=UUID(attributes.connection),
        lane=attributes.lane,
        event_id=attributes.event,
        event_type=attributes.eventtype,
        entity=attributes.entity,
        method=attributes.method,
        key_id=attributes.keyid,
        received_at=attributes.receivedat,
        trace_id=_trace_id(message),
        topic=message.origin.topic,
        partition=message.origin.partition,
        offset=message.origin.offset,
        headers=[list(pair) for pair in attributes.signed],
        content_type=message.envelope.content_type,
        encoding=attributes.encoding,
        body=message.envelope.data,
        body_sha256=attributes.bodysha256,
    )


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
        lane="",
        event_id="",
        event_type="",
        entity="",
        method=rejected.method,
        key_id="",
        received_at=rejected.received_at,
        trace_id=_trace_id(message),
        topic=message.origin.topic,
        partition=message.origin.partition,
        offset=message.origin.offset,
        headers=[list(pair) for pair in rejected.headers],
        content_type=dict(rejected.headers).get("content-type", ""),
        encoding="",
        body=body,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


def _trace_id(message: Message) -> str:
    context = parse_traceparent(message.envelope.traceparent)
    return f"{context.trace_id:032x}" if context else ""
