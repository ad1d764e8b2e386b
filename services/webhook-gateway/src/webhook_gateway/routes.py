"""The HTTP edge of the ingest role: one opaque URL per endpoint, a bounded body, and the right status.

Speaks granian's RSGI, since ASGI would cost a fifth of the rate. Must never hold more of a body than the budget allows,
nor believe anything of a request before `Ingest` has verified it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from chassis.clock import Clock
from chassis.http.rsgi import Exchange, Headers, ProtocolClosed, RsgiApp, Scope
from chassis.telemetry.metrics import bound_counter, bound_histogram
from contracts.events.gateway import RejectionReason
from providers.sdk import InboundRequest
from webhook_gateway.addresses import Network, caller, within
from webhook_gateway.answers import Answer, problem, too_many, unavailable
from webhook_gateway.arrival import Arrival
from webhook_gateway.endpoints import Address, Endpoint, EndpointRegistry
from webhook_gateway.flights import Flight, Flights
from webhook_gateway.handshakes import Handshakes
from webhook_gateway.ingest import Ingest
from webhook_gateway.limits import RateLimits
from webhook_gateway.metrics import ACK_SECONDS, DELIVERIES
from webhook_gateway.rejections import Rejections

PREFIX: Final = "/hooks/"
# Bodies up to this size are read in one call; larger ones are counted as they arrive.
WHOLE_BYTES: Final = 64 * 1024
# A length of more digits is over any limit, and Python refuses to read thousands of them.
_MAX_LENGTH_DIGITS: Final = 18


class _TooLarge(Exception):  # noqa: N818 (a verdict, answered with 413)
    """The body passed the limit, declared or counted."""


class _NoRoom(Exception):  # noqa: N818 (a verdict, answered with 503)
    """The process holds as many body bytes as it may."""


class _SenderLeft(Exception):  # noqa: N818 (nobody is there to be answered)
    """The connection was closed before the body was complete."""


class RequestHeaders(Mapping[str, Sequence[str]]):
    """Headers by lower-case name, read from granian when asked for: most requests need three of a dozen."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> Sequence[str]:
        values = self._headers.get_all(name)
        if not values:
            raise KeyError(name)
        return values

    def get(self, name: str, default: Sequence[str] = ()) -> Sequence[str]:  # type: ignore[override]
        """Return all values of a header in order, or `default`."""
        return self._headers.get_all(name) or default

    def __contains__(self, name: object) -> bool:
        return bool(self._headers.get_all(str(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._headers.items()))

    def __len__(self) -> int:
        return len(dict(self._headers.items()))


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: for a sender to deliver its whole body, and for the broker to take what came of it."""

    body: float
    publish: float


@dataclass(frozen=True, slots=True)
class Edge:
    """What the edge is made of; `loaded` is set once all endpoints are known."""

    endpoints: EndpointRegistry
    loaded: asyncio.Event
    ingest: Ingest
    handshakes: Handshakes
    rejections: Rejections
    limits: RateLimits
    flights: Flights
    clock: Clock
    trusted_proxies: tuple[Network, ...]
    max_body_bytes: int
    times: Times


class Hooks:
    """`/hooks/{token}`; everything else goes to `fallback`."""

    def __init__(self, edge: Edge, fallback: RsgiApp) -> None:
        self._edge = edge
        self._fallback = fallback

    async def __call__(self, scope: Scope, exchange: Exchange) -> None:
        """Serve one request."""
        path = scope.path
        if not path.startswith(PREFIX) or scope.proto != "http":
            await self._fallback(scope, exchange)
            return
        edge = self._edge
        started = edge.clock.monotonic()
        address = edge.endpoints.get(path[len(PREFIX) :])
        if address is None and not edge.loaded.is_set():
            # A sender may take a 404 for final, and right after a start nobody knows yet what there is.
            bound_counter(DELIVERIES, "", "not_loaded").inc()
            _reply(exchange, unavailable("the endpoints are being loaded"))
            return
        if address is None:
            bound_counter(DELIVERIES, "", "unknown_endpoint").inc()
            _reply(exchange, problem(404, "unknown_endpoint", "no such endpoint"))
            return
        slug = address.endpoint.provider.slug
        flight = edge.flights.enter(edge.times.body, critical=address.endpoint.may_be_critical)
        if flight is None:
            bound_counter(DELIVERIES, slug, "no_slot").inc()
            _reply(exchange, unavailable("too many requests are in flight"))
            return
        try:
            answer = await self._serve(address, scope, exchange, flight)
        except _SenderLeft:
            # A part of a body proves nothing: neither its signature nor a rejection of it would mean anything.
            bound_counter(DELIVERIES, slug, "sender_left").inc()
            return
        except _NoRoom:
            bound_counter(DELIVERIES, slug, "no_room").inc()
            answer = unavailable("too many bytes are in flight")
        finally:
            edge.flights.leave(flight)
        _reply(exchange, answer)
        bound_histogram(ACK_SECONDS, slug).observe(edge.clock.monotonic() - started)

    async def _serve(self, address: Address, scope: Scope, exchange: Exchange, flight: Flight) -> Answer:
        edge, endpoint = self._edge, address.endpoint
        received_at = edge.clock.now()
        headers = RequestHeaders(scope.headers)
        refusal = self._refused_unread(address, scope, received_at)
        if refusal is not None:
            arrival = _arrival(address, scope, headers, b"", received_at)
            await edge.rejections.record(arrival, refusal[0], refusal[1].status)
            return refusal[1]
        limit = min(endpoint.configured.max_body_bytes or edge.max_body_bytes, edge.max_body_bytes)
        try:
            body = await self._read(headers, exchange, limit, flight)
        except _TooLarge:
            arrival = _arrival(address, scope, headers, b"", received_at)
            await edge.rejections.record(arrival, "body_too_large", 413)
            return problem(413, "body_too_large", f"at most {limit} bytes", ("connection", "close"))
        except asyncio.CancelledError:
            if not edge.flights.landed(flight):
                raise
            arrival = _arrival(address, scope, headers, b"", received_at)
            await edge.rejections.record(arrival, "slow_body", 408)
            return problem(408, "slow_body", "the body took too long", ("connection", "close"))
        edge.flights.extend(flight, edge.times.publish)
        arrival = _arrival(address, scope, headers, body, received_at)
        try:
            if endpoint.provider.webhook.handshakes:
                reply = await edge.handshakes.reply(arrival)
                if reply is not None:
                    return reply
            return await edge.ingest.accept(arrival)
        except asyncio.CancelledError:
            if not edge.flights.landed(flight):
                raise
            return edge.ingest.not_written(arrival, "broker_timeout")

    def _refused_unread(self, address: Address, scope: Scope, now: datetime) -> tuple[RejectionReason, Answer] | None:
        """Return why a request is refused before its body is read, with the answer, or None."""
        endpoint, webhook = address.endpoint, address.endpoint.provider.webhook
        if address.not_after is not None and address.not_after <= now:
            return "endpoint_retired", problem(410, "endpoint_retired", "this URL was replaced")
        if scope.method not in endpoint.methods:
            allowed = ", ".join(webhook.accepted_methods)
            return "method_not_allowed", problem(405, "method_not_allowed", f"use {allowed}", ("allow", allowed))
        if not self._address_allowed(endpoint, scope):
            return "address_not_allowed", problem(403, "address_not_allowed", "this address is not on the list")
        # A provider that punishes refusals is let in whatever its rate; the hard bound is the budget.
        wait_s = self._edge.limits.refused_for_s(endpoint)
        if wait_s > 0 and webhook.throttle == "retry":
            return "rate_limited", too_many("rate_limited", "over the endpoint's or tenant's rate", wait_s)
        return None

    def _address_allowed(self, endpoint: Endpoint, scope: Scope) -> bool:
        if not endpoint.allowed:
            return True
        forwarded = scope.headers.get_all("x-forwarded-for")
        return within(caller(scope.client, forwarded, self._edge.trusted_proxies), endpoint.allowed)

    async def _read(self, headers: RequestHeaders, exchange: Exchange, limit: int, flight: Flight) -> bytes:
        """Return the body; raises `_TooLarge` by Content-Length at once, and by counted bytes while it streams.

        Raises `_SenderLeft` when the connection closes before the end of the body, and `_NoRoom`.
        """
        flights = self._edge.flights
        declared = headers.get("content-length")
        size = -1
        if declared:
            # The server has checked that it is a number; a huge one must not be parsed.
            size = int(declared[0]) if len(declared[0]) <= _MAX_LENGTH_DIGITS else limit + 1
            if size > limit:
                raise _TooLarge
            if size <= WHOLE_BYTES:
                if not flights.hold(flight, size):
                    raise _NoRoom
                try:
                    return await exchange()
                except ProtocolClosed:
                    raise _SenderLeft from None
        body = bytearray()
        async for piece in exchange:
            if not flights.hold(flight, len(piece)):
                raise _NoRoom
            body += piece
            if len(body) > limit:
                raise _TooLarge
        # granian ends the iteration in silence when the sender leaves: only a declared length tells. A chunked body
        # that breaks off fails its signature instead.
        if len(body) < size:
            raise _SenderLeft
        return bytes(body)


def _arrival(address: Address, scope: Scope, headers: RequestHeaders, body: bytes, received_at: datetime) -> Arrival:
    provider = address.endpoint.provider
    url = provider.request_url(address.url, scope.query_string) if scope.query_string else address.url
    return Arrival(address.endpoint, InboundRequest(scope.method, url, headers, body, scope.query_string), received_at)


def _reply(exchange: Exchange, answer: Answer) -> None:
    if answer.body:
        exchange.response_bytes(answer.status, answer.header_list(), answer.body)
    else:
        exchange.response_empty(answer.status, answer.header_list())
