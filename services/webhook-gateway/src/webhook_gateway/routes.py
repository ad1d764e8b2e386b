"""The HTTP edge of the ingest role: one opaque URL per endpoint, a bounded body, and the right status.

Speaks granian's RSGI, since ASGI would cost a fifth of the rate. Must never hold more of a body than the budget allows,
nor believe anything of a request before `Ingest` has verified it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class _Refusal(Exception):  # noqa: N818 (a verdict with its answer, recorded)
    """The request is refused before anything of it was verified."""

    def __init__(self, reason: RejectionReason, answer: Answer) -> None:
        super().__init__(reason)
        self.reason: RejectionReason = reason
        self.answer = answer


class _Busy(Exception):  # noqa: N818 (a verdict on us, answered with 503)
    """The process has no turn or no room; `outcome` is the word in the metric."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


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
    """What the edge is made of; `loaded` is set once all endpoints are known, `leaving` tells of a stop."""

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
    leaving: Callable[[], bool]


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
            self._reply(exchange, unavailable("the endpoints are being loaded"))
            return
        if address is None:
            bound_counter(DELIVERIES, "", "unknown_endpoint").inc()
            self._reply(exchange, problem(404, "unknown_endpoint", "no such endpoint"))
            return
        slug = address.endpoint.provider.slug
        flight = edge.flights.enter(edge.times.body, critical=address.endpoint.may_be_critical)
        if flight is None:
            bound_counter(DELIVERIES, slug, "no_slot").inc()
            self._reply(exchange, unavailable("too many requests are in flight"))
            return
        try:
            answer = await self._serve(address, scope, exchange, flight)
        except _SenderLeft:
            # A part of a body proves nothing: neither its signature nor a rejection of it would mean anything.
            bound_counter(DELIVERIES, slug, "sender_left").inc()
            return
        except _Busy as busy:
            bound_counter(DELIVERIES, slug, busy.outcome).inc()
            answer = unavailable(busy.detail)
        finally:
            edge.flights.leave(flight)
        self._reply(exchange, answer)
        bound_histogram(ACK_SECONDS, slug).observe(edge.clock.monotonic() - started)

    async def _serve(self, address: Address, scope: Scope, exchange: Exchange, flight: Flight) -> Answer:
        edge = self._edge
        received_at = edge.clock.now()
        headers = RequestHeaders(scope.headers)
        try:
            self._check_unread(address, scope, received_at)
            body = await self._body(address.endpoint, headers, exchange, flight)
        except _Refusal as refusal:
            arrival = _arrival(address, scope, headers, b"", received_at)
            # The time for the body may be over, and the next sweep would cut the record, and with it the answer, off.
            edge.flights.extend(flight, edge.times.publish)
            await edge.rejections.record(arrival, refusal.reason, refusal.answer.status)
            return refusal.answer
        # Only now: a turn while the body is still on its way would be a slow sender's to hold.
        edge.flights.extend(flight, edge.times.publish)
        await self._turn(flight)
        arrival = _arrival(address, scope, headers, body, received_at)
        try:
            if address.endpoint.provider.webhook.handshakes:
                reply = await edge.handshakes.reply(arrival)
                if reply is not None:
                    return reply
            return await edge.ingest.accept(arrival)
        except asyncio.CancelledError:
            if not edge.flights.landed(flight):
                raise
            return edge.ingest.not_written(arrival, "broker_timeout")

    def _reply(self, exchange: Exchange, answer: Answer) -> None:
        headers = answer.header_list()
        if self._edge.leaving():
            headers.append(("connection", "close"))
        if answer.body:
            exchange.response_bytes(answer.status, headers, answer.body)
        else:
            exchange.response_empty(answer.status, headers)

    async def _turn(self, flight: Flight) -> None:
        """Wait for a turn; raises `_Busy` when none comes in time."""
        try:
            await self._edge.flights.turn(flight)
        except asyncio.CancelledError:
            if not self._edge.flights.landed(flight):
                raise
            raise _Busy("no_turn", "too many requests are waiting") from None

    async def _body(self, endpoint: Endpoint, headers: RequestHeaders, exchange: Exchange, flight: Flight) -> bytes:
        """Return the body in time; raises `_Refusal` (`body_too_large`, `slow_body`), `_SenderLeft` and `_Busy`."""
        limit = min(endpoint.configured.max_body_bytes or self._edge.max_body_bytes, self._edge.max_body_bytes)
        try:
            return await self._read(headers, exchange, limit, flight)
        except asyncio.CancelledError:
            if not self._edge.flights.landed(flight):
                raise
            answer = problem(408, "slow_body", "the body took too long", ("connection", "close"))
            raise _Refusal("slow_body", answer) from None

    def _check_unread(self, address: Address, scope: Scope, now: datetime) -> None:
        """Raise `_Refusal` for a request that is refused before its body is read."""
        endpoint, webhook = address.endpoint, address.endpoint.provider.webhook
        if address.not_after is not None and address.not_after <= now:
            raise _Refusal(
                "endpoint_retired", problem(webhook.stop_status, "endpoint_retired", "this URL was replaced")
            )
        if scope.method not in endpoint.methods:
            allowed = ", ".join(webhook.accepted_methods)
            answer = problem(405, "method_not_allowed", f"use {allowed}", ("allow", allowed))
            raise _Refusal("method_not_allowed", answer)
        if not self._address_allowed(endpoint, scope):
            answer = problem(403, "address_not_allowed", "this address is not on the list")
            raise _Refusal("address_not_allowed", answer)
        # A provider that does not come back is let in whatever its rate; the hard bound is the budget.
        wait_s = self._edge.limits.refused_for_s(endpoint)
        if wait_s > 0 and webhook.comes_back:
            answer = too_many("rate_limited", "over the endpoint's or tenant's rate", wait_s)
            raise _Refusal("rate_limited", answer)

    def _address_allowed(self, endpoint: Endpoint, scope: Scope) -> bool:
        trusted = self._edge.trusted_proxies
        # A header that says which certificate a client had is a proxy's word: from anybody else it is a forgery.
        if endpoint.proxy_header and not within(caller(scope.client, (), ()), trusted):
            return False
        if not endpoint.allowed:
            return True
        return within(caller(scope.client, scope.headers.get_all("x-forwarded-for"), trusted), endpoint.allowed)

    async def _read(self, headers: RequestHeaders, exchange: Exchange, limit: int, flight: Flight) -> bytes:
        """Return the body; refuses one over the limit by Content-Length at once, and by counted bytes as it streams.

        Raises `_SenderLeft` when the connection closes before the end of the body, and `_Busy` without room for it.
        """
        flights = self._edge.flights
        declared = headers.get("content-length")
        size = -1
        if declared:
            # The server has checked that it is a number; a huge one must not be parsed.
            size = int(declared[0]) if len(declared[0]) <= _MAX_LENGTH_DIGITS else limit + 1
            if size > limit:
                raise _too_large(limit)
            if size <= WHOLE_BYTES:
                if not flights.hold(flight, size):
                    raise _no_room()
                try:
                    return await exchange()
                except ProtocolClosed:
                    raise _SenderLeft from None
        body = bytearray()
        async for piece in exchange:
            if not flights.hold(flight, len(piece)):
                raise _no_room()
            body += piece
            if len(body) > limit:
                raise _too_large(limit)
        # granian ends the iteration in silence when the sender leaves: only a declared length tells. A chunked body
        # that breaks off fails its signature instead.
        if len(body) < size:
            raise _SenderLeft
        return bytes(body)


def _too_large(limit: int) -> _Refusal:
    return _Refusal("body_too_large", problem(413, "body_too_large", f"at most {limit} bytes", ("connection", "close")))


def _no_room() -> _Busy:
    return _Busy("no_room", "too many bytes are in flight")


def _arrival(address: Address, scope: Scope, headers: RequestHeaders, body: bytes, received_at: datetime) -> Arrival:
    provider = address.endpoint.provider
    url = provider.request_url(address.url, scope.query_string) if scope.query_string else address.url
    return Arrival(address.endpoint, InboundRequest(scope.method, url, headers, body, scope.query_string), received_at)
