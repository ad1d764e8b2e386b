"""The HTTP edge of the ingest role: one opaque URL per endpoint, a bounded body, and the right status.

A bare ASGI app in front of the service's own routes: Starlette would cost 15 % of the rate (stack.md §4).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from chassis.clock import Clock
from chassis.telemetry.metrics import counter, histogram
from providers.sdk import InboundRequest
from webhook_gateway.endpoints import Endpoint, EndpointRegistry
from webhook_gateway.ingest import Answer, Arrival, Ingest
from webhook_gateway.metrics import ACK_SECONDS, DELIVERIES

PREFIX: Final = "/hooks/"

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


# A length of more digits is over any limit, and Python refuses to read thousands of them.
_MAX_LENGTH_DIGITS: Final = 18


class _TooLarge(Exception):  # noqa: N818 (a verdict, answered with 413)
    """The body passed the limit, declared or counted."""


class _SenderLeft(Exception):  # noqa: N818 (nobody is there to be answered)
    """The connection was closed before the body was complete."""


class Hooks:
    """`POST /hooks/{endpoint_id}`; everything else goes to `fallback`."""

    def __init__(
        self,
        endpoints: EndpointRegistry,
        ingest: Ingest,
        clock: Clock,
        fallback: Any,
        *,
        max_body_bytes: int,
        body_timeout_s: float,
    ) -> None:
        self._endpoints = endpoints
        self._ingest = ingest
        self._clock = clock
        self._fallback = fallback
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._fallback(scope, receive, send)
            return
        started = self._clock.monotonic()
        endpoint = self._endpoints.get(scope["path"].removeprefix(PREFIX))
        if endpoint is None:
            counter(DELIVERIES).labels("", "unknown_endpoint").inc()
            await _reply(send, _problem(404, "unknown_endpoint", "no such endpoint"))
            return
        try:
            answer = await self._serve(endpoint, scope, receive)
        except _SenderLeft:
            # A part of a body proves nothing: neither its signature nor a rejection of it would mean anything.
            counter(DELIVERIES).labels(endpoint.provider.slug, "sender_left").inc()
            return
        await _reply(send, answer)
        histogram(ACK_SECONDS).labels(endpoint.provider.slug).observe(self._clock.monotonic() - started)

    async def _serve(self, endpoint: Endpoint, scope: dict[str, Any], receive: Receive) -> Answer:
        received_at = self._clock.now()
        headers = _headers(scope)
        url = endpoint.provider.request_url(endpoint.configured.url, scope["query_string"].decode("latin-1"))

        def arrival(body: bytes) -> Arrival:
            return Arrival(endpoint, InboundRequest(scope["method"], url, headers, body), received_at)

        if scope["method"] not in endpoint.provider.webhook.methods:
            await self._ingest.reject(arrival(b""), "method_not_allowed", 405)
            allowed = ("allow", ", ".join(endpoint.provider.webhook.methods))
            return _problem(405, "method_not_allowed", f"use {allowed[1]}", allowed)
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await self._read(headers, receive)
        except _TooLarge:
            await self._ingest.reject(arrival(b""), "body_too_large", 413)
            return _problem(413, "body_too_large", f"at most {self._max_body_bytes} bytes", ("connection", "close"))
        except TimeoutError:
            await self._ingest.reject(arrival(b""), "slow_body", 408)
            return _problem(408, "slow_body", "the body took too long", ("connection", "close"))
        answer = await self._ingest.accept(arrival(body))
        return _explained(answer)

    async def _read(self, headers: dict[str, list[str]], receive: Receive) -> bytes:
        """Return the body; raises `_TooLarge` by Content-Length at once, and by counted bytes while streaming.

        Raises `_SenderLeft` when the connection closes before the end of the body.
        """
        declared = headers.get("content-length", ["0"])[0]
        # `isdecimal`: a Latin-1 superscript is a digit to Python, and still no number.
        if declared.isdecimal() and (len(declared) > _MAX_LENGTH_DIGITS or int(declared) > self._max_body_bytes):
            raise _TooLarge
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _SenderLeft
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise _TooLarge
            if not message.get("more_body", False):
                return bytes(body)


def _headers(scope: dict[str, Any]) -> dict[str, list[str]]:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return headers


def _explained(answer: Answer) -> Answer:
    """Give our own failures a problem body; a refusal of a signature stays empty, as providers expect it."""
    details = {
        400: ("bad_encoding", "the content coding is unknown or broken"),
        413: ("body_too_large", "the body is too large once decompressed"),
        503: ("unavailable", "the event could not be written; send it again"),
    }
    if answer.status not in details:
        return answer
    return _problem(answer.status, *details[answer.status], *answer.headers)


def _problem(status: int, code: str, detail: str, *headers: tuple[str, str]) -> Answer:
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    return Answer(status, json.dumps(body).encode(), (("content-type", "application/problem+json"), *headers))


async def _reply(send: Send, answer: Answer) -> None:
    headers = [(name.encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
