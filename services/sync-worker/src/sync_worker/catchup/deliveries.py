"""From an event that was fetched to the record that the gateway would have written of it, had it arrived.

Id, source, key, tenant and lane follow from the same rules, so that consumers absorb what came both ways. Must never
write what a paused endpoint would hold back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chassis.claims import ClaimStore
from contracts.envelope import Envelope
from contracts.errors import Invalid
from contracts.events.gateway import DELIVERY_ACCEPTED, UNREADABLE_TYPE, DeliveryAttributes, delivery_source
from contracts.events.sync import EndpointLaneRule, TenantRoutes
from contracts.ids import entity_key, uuid7
from contracts.topics import GATEWAY_EVENTS, Lane, Topic
from providers import registry
from providers.cards import find_cards, mask
from providers.lanes import Classifier
from providers.provider import Provider
from providers.sdk import InboundRequest, WebhookItem
from providers.tenants import tenant_of
from sync_worker.endpoints import configuration
from sync_worker.repository.endpoints import Stored

# A larger event goes to the claim-check store: event and headers must fit a record of 1 MiB.
INLINE_BYTES: Final = 900 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """One event as a message on its way to a lane."""

    topic: Topic
    key: str
    envelope: Envelope

    @property
    def known_as(self) -> str:
        """What an inbox remembers the event by."""
        return self.envelope.dedupe_id


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint that an event belongs to, with what decides about its lane and its tenant."""

    endpoint: str
    tenant: str
    connection: str
    provider: Provider
    options: Mapping[str, str]
    classifier: Classifier
    routes: TenantRoutes | None
    masks_cards: bool

    @classmethod
    def of(cls, stored: Stored) -> Target:
        """Return an endpoint as the gateway has it; raises `Invalid` (`unknown_provider`)."""
        provider, settings = registry.get(stored.provider), configuration.shown(stored.endpoint.settings)
        rules = tuple(EndpointLaneRule.model_validate(rule) for rule in settings["lane_rules"])
        routes = settings["tenant_routes"]
        return cls(
            endpoint=stored.endpoint.id,
            tenant=stored.tenant,
            connection=str(stored.endpoint.connection),
            provider=provider,
            options={**stored.options, **settings["options"]},
            classifier=Classifier(provider, Lane(stored.endpoint.lane), rules),
            routes=TenantRoutes.model_validate(routes) if routes else None,
            masks_cards=settings["card_numbers"] == "mask",
        )


async def fetched(target: Target, delivery: InboundRequest, claims: ClaimStore, now: datetime) -> list[Fetched]:
    """Return the messages of a delivery that was made of a feed's item.

    What the manifest cannot read is delivered as such, as the gateway does. Raises `Transient`
    (`claim_store_unavailable`) when a large event cannot be stored.
    """
    try:
        items = target.provider.split(delivery, target.options)
    except Invalid:
        body = delivery.body
        items = [WebhookItem(hashlib.sha256(body).hexdigest(), UNREADABLE_TYPE, None, body)]
    return [await _message(target, item, claims, now) for item in items]


async def _message(target: Target, item: WebhookItem, claims: ClaimStore, now: datetime) -> Fetched:
    data, cards = item.data, len(find_cards(item.data))
    if cards and target.masks_cards:
        data = mask(data)
    claim = await claims.put(data) if len(data) > INLINE_BYTES else ""
    tenant, lane = tenant_of(target.tenant, target.routes, item), target.classifier.lane(item, now)
    attributes = DeliveryAttributes(
        delivery=str(uuid7()),
        provider=target.provider.slug,
        endpoint=target.endpoint,
        connection=target.connection,
        tenant=tenant,
        lane=lane.value,
        event=item.event_id,
        eventtype=item.event_type,
        receivedat=now,
        verifiedat=now,
        # Nobody signed it: it came over a connection that we opened, with our own credentials.
        keyid="",
        bodysha256=hashlib.sha256(data).hexdigest(),
        entity=":".join(item.entity) if item.entity else "",
        apiversion=item.api_version,
        origin="reconcile",
        cards=cards,
        claim=claim,
    )
    envelope = Envelope(
        id=item.event_id,
        source=delivery_source(target.provider.slug, target.connection),
        type=DELIVERY_ACCEPTED,
        data=b"" if claim else data,
        time=now,
        extensions=attributes.extensions(),
    )
    key = entity_key(tenant, *item.entity) if item.entity is not None else target.endpoint
    return Fetched(GATEWAY_EVENTS[lane], key, envelope)
