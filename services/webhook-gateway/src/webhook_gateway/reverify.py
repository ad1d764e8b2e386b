"""Verifying a refused delivery again, after its secret was corrected, and putting its events into their lanes.

The replay window is judged at the time of arrival, the secrets at the present: that is the point of doing it. Must
never accept what the provider's verifier does not, and keeps no opened secret.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final, Literal, Protocol
from uuid import UUID

from chassis.claims import ClaimStore
from chassis.clock import Clock
from chassis.db.database import Database
from chassis.http.problems import Problem, not_found
from chassis.kafka.rows import row
from chassis.sealing import Keyring
from chassis.telemetry.traces import start_span, traceparent
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.errors import Invalid, Transient
from contracts.events.sync import EndpointConfigured
from providers.cards import find_cards, mask
from providers.sdk import InboundRequest, Refused, Verified, WebhookItem
from providers.tenants import tenant_of
from webhook_gateway import audit, privacy
from webhook_gateway.arrival import Arrival
from webhook_gateway.dedup import Seen, fingerprint
from webhook_gateway.endpoint_book import EndpointBook
from webhook_gateway.endpoints import Endpoint, EndpointRegistry
from webhook_gateway.records import Body, Event, Record, is_xml, records
from webhook_gateway.repository import deliveries

SOURCE: Final = "patchbay/webhook-gateway"
# How the lane records say what they are; later headers win over earlier ones of the same name.
_MARK: Final = ("ce_origin", b"replay")


class Verifies(Protocol):
    """The part of the gateway's gate that is needed: the provider's scheme with the vendor's keys."""

    async def verify(self, arrival: Arrival) -> Verified:
        """Return which key signed; raises `Refused`, or `Transient` when a vendor's key is out of reach."""
        ...


class Reverifier:
    """Verifies stored requests. `keyring` opens the endpoint's present secrets for the length of one call."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        book: EndpointBook,
        *,
        keyring: Keyring,
        gate: Verifies,
        claims: ClaimStore,
    ) -> None:
        self._database = database
        self._clock = clock
        self._book = book
        self._keyring = keyring
        self._gate = gate
        self._claims = claims

    async def verify(self, delivery: UUID, by: str) -> dict[str, Any]:
        """Verify a refused delivery with its endpoint's present secrets, and inject its events; audited.

        Returns the new delivery. Raises `Problem`: 404 for an unknown delivery, 409 with the reason when it cannot be
        verified, or is refused again; 503 when its body has to go to the claim-check store, which does not take it.
        """
        async with self._database.unit_of_work() as uow:
            # Two operators at once would inject the events twice, under two delivery ids.
            await uow.connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", str(delivery))
            items = await deliveries.items_of(uow.connection, delivery)
            if not items:
                raise not_found("delivery")
            stored = _refused(items[0])
            arrival, verified = await self._verified(stored)
            made = await self._records(arrival, verified)
            for record in made:
                headers = [*record.headers, _MARK, ("ce_replay", str(delivery).encode())]
                uow.publish_raw(row(record.topic, record.key, record.value, headers))
            place = (stored["id"], stored["item"], stored["received_at"])
            await deliveries.settle(uow.connection, [place], "reverified")
            detail = {"made": arrival.delivery, "key_id": verified.key_id, "was": stored["reason"]}
            act = audit.Act(by, "delivery.reverified", f"delivery:{delivery}", stored["tenant"], detail)
            audit.record(uow, self._clock, act)
        return {"delivery": delivery, "made": arrival.delivery, "events": len(made), "key_id": verified.key_id}

    async def _records(self, arrival: Arrival, verified: Verified) -> list[Record]:
        """Return the records as the gateway would have written them."""
        body = _body(arrival)
        events = _events(arrival, body)
        # What is recorded of a refused body fits into a record, but no reader could find an event in XML.
        body.beside = is_xml(events, body)
        if body.beside:
            try:
                body.claim = await self._claims.put(body.written)
            except Transient as error:
                raise Problem(503, error.code, "the body cannot be stored; try again") from None
        span = start_span("reverify", attributes={"patchbay.delivery": arrival.delivery})
        try:
            return records(arrival, verified, body, events, trace=traceparent(span), now=self._clock.now())
        finally:
            span.end()

    async def _verified(self, stored: dict[str, Any]) -> tuple[Arrival, Verified]:
        """Return the request as it was, at the first of its endpoint's addresses under which it verifies."""
        configured = self._book.get(stored["endpoint"])
        if configured is None:
            raise Problem(409, "no_endpoint", "the endpoint of this delivery is no longer configured")
        endpoint = self._endpoint(configured)
        headers: dict[str, list[str]] = {}
        for name, value in stored["headers"]:
            headers.setdefault(name, []).append(value)
        reason = "no_secret"
        for url in dict.fromkeys((configured.url, *(token.url for token in configured.tokens if token.url))):
            request = InboundRequest(stored["method"], url, headers, stored["body"])
            arrival = Arrival(endpoint, request, stored["received_at"])
            try:
                return arrival, await self._gate.verify(arrival)
            except Refused as refused:
                reason = refused.reason
            except Transient as error:
                raise Problem(409, "key_unavailable", error.detail) from None
        raise Problem(409, "still_refused", f"the delivery does not verify with the present secrets: {reason}")

    def _endpoint(self, configured: EndpointConfigured) -> Endpoint:
        """Return the endpoint with the secrets that are valid now, without their validity.

        Valid now means valid for this: the delivery is older than the corrected secret.
        """
        now = self._clock.now()
        secrets = tuple(
            secret.model_copy(update={"not_before": None, "not_after": None})
            for secret in configured.secrets
            if (secret.not_before is None or secret.not_before <= now)
            and (secret.not_after is None or now < secret.not_after)
        )
        present = configured.model_copy(update={"secrets": secrets, "tokens": ()})
        registry = EndpointRegistry(self._keyring)
        registry.apply(
            configured.endpoint, Envelope(id="", source=SOURCE, type=configured.TYPE, data=encode(present), time=now)
        )
        address = registry.get(configured.endpoint)
        registry.apply(configured.endpoint, None)
        if address is None:
            raise Problem(409, "no_endpoint", "the endpoint of this delivery cannot be used as it is configured")
        return address.endpoint


def _refused(item: dict[str, Any]) -> dict[str, Any]:
    """Return a refused delivery whose request is whole; raises `Problem` 409 for any other."""
    if item["outcome"] != "rejected":
        raise Problem(409, "not_rejected", "only a rejected delivery can be verified again")
    if item["settled"]:
        raise Problem(409, "already_settled", f"this delivery was {item['settled']}")
    if item["body_bytes"] > len(item["body"]):
        raise Problem(409, "truncated_body", f"only {len(item['body'])} of {item['body_bytes']} bytes were recorded")
    return item


def _events(arrival: Arrival, body: Body) -> list[Event]:
    configured = arrival.endpoint.configured
    return [
        Event(
            item=item,
            tenant=tenant_of(configured.tenant, configured.tenant_routes, item),
            lane=arrival.endpoint.classifier.lane(item, arrival.received_at),
            key=b"",
            seen=Seen(arrival.delivery, fingerprint(arrival.endpoint.provider.identity(item))),
        )
        for item in _split(arrival, body.plain)
    ]


def _body(arrival: Arrival) -> Body:
    raw = arrival.request.body
    coding = (arrival.request.header("content-encoding") or "identity").strip().lower()
    encoding: Literal["", "gzip"] = "gzip" if coding == "gzip" else ""
    if coding not in ("identity", "gzip"):
        raise Problem(409, "still_refused", "the content coding is unknown")
    plain = privacy.inflate(raw) if encoding else raw
    body = Body(plain, raw, encoding, hashlib.sha256(raw).hexdigest(), cards=len(find_cards(plain)))
    if body.cards and arrival.endpoint.configured.card_numbers == "mask":
        body.plain = body.written = mask(plain)
        body.encoding = ""
    return body


def _split(arrival: Arrival, plain: bytes) -> list[WebhookItem]:
    request = replace(arrival.request, body=plain)
    try:
        return arrival.endpoint.provider.split(request, arrival.endpoint.configured.options)
    except Invalid as error:
        raise Problem(409, "unreadable", f"the body verifies, and its manifest cannot read it: {error.code}") from None
