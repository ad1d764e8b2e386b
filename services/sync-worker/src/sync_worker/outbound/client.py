"""Sends one request to a provider: pooled connections per host, a deadline, a cap on answers. No judgement, no retry.

Must never follow a redirect, carry a cookie from one tenant's call to another's, or connect to an address that a user
chose unless it is public.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import httpx

from chassis.clock import Clock
from chassis.http.transport import LEFT, TLS, PooledTransport
from contracts.errors import Invalid, Transient
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.outbound.certificates import TlsContexts
from sync_worker.outbound.hosts import HostPins

CONNECT_TIMEOUT_S: Final = 2.0
# A full pool is our own congestion and no evidence against the provider (sync-worker.md §4.1).
POOL_TIMEOUT_S: Final = 1.0
MAX_CONNECTIONS: Final = 100
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
# With little time left the pool gives up before the whole does, so that a full pool is still known for what it is.
_POOL_PART: Final = 0.9
# What httpx says of itself: the encodings that it can read, and its name, which some vendors insist on.
_DEFAULT_HEADERS: Final = dict(httpx.Client(trust_env=False).headers)

# `unsent`: it provably never left. `timeout`, `broken`: it may have been carried out. `crowded`: our own pool was full.
# `ours`: what a tenant configured does not fit into HTTP, or its host is none that may be called.
FailureKind = Literal["unsent", "timeout", "broken", "crowded", "ours"]


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer that could be read, and why."""

    kind: FailureKind
    detail: str = ""


class ProviderClient:
    """One per process; close it at the end."""

    def __init__(
        self, clock: Clock, *, base_url_override: str = "", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._override = base_url_override.rstrip("/")
        self._pins = HostPins(clock)
        self._tls = TlsContexts()
        self._transport = transport or PooledTransport(self._tls.plain, connections=MAX_CONNECTIONS)

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def send(
        self, provider: Provider, account: Account, request: HttpRequest, timeout_s: float, *, fresh: bool = False
    ) -> HttpResponse | Failure:
        """Return the answer, or how there was none; raises nothing that the provider or the network causes.

        A `fresh` request has a connection of its own: probes must not be answered by one that has long been open.
        """
        try:
            return await self._answer(provider, account, request, timeout_s, fresh=fresh)
        except Exception as error:
            failure = _failure(error)
            if failure is None:
                raise
            return failure

    async def _answer(
        self, provider: Provider, account: Account, request: HttpRequest, timeout_s: float, *, fresh: bool
    ) -> HttpResponse:
        base, extensions = await self._place(provider, account, request)
        limits = {"connect": CONNECT_TIMEOUT_S, "pool": min(POOL_TIMEOUT_S, timeout_s * _POOL_PART)}
        certificate = None if self._override else provider.client_certificate(account)
        presents = {TLS: self._tls.of(certificate)} if certificate else {}
        sending = _request(base, request, {**extensions, **presents, "timeout": limits}, fresh=fresh)
        try:
            # The whole exchange is bounded, because an answer that drips could outlive the effect's lease.
            async with asyncio.timeout(timeout_s):
                answer = await self._transport.handle_async_request(sending)
                try:
                    return _read(answer, await _body(answer))
                finally:
                    await answer.aclose()
        except TimeoutError:
            if sending.extensions.get(LEFT) is False:
                raise httpx.ConnectTimeout("there was no time left to connect") from None
            raise

    async def _place(self, provider: Provider, account: Account, request: HttpRequest) -> tuple[str, dict[str, str]]:
        """Return where a request goes: the override, the vendor's own host, or the pinned address of a user's host."""
        if self._override:
            return f"{self._override}/{provider.slug}", {}
        base = provider.base_url(account, request)
        if not provider.host_is_chosen(account, request):
            return base, {}
        return await self._pins.pinned(base)


@lru_cache(maxsize=1024)
def _url(text: str) -> httpx.URL:
    """Return a URL, parsed: a third of what a request costs, and many operations have one path."""
    return httpx.URL(text)


def _request(base: str, request: HttpRequest, extensions: dict[str, Any], *, fresh: bool) -> httpx.Request:
    own = {name.lower() for name in request.headers}
    headers = {name: value for name, value in _DEFAULT_HEADERS.items() if name not in own} | dict(request.headers)
    if "host" in extensions:
        headers["Host"] = str(extensions.pop("host"))
    if request.content_type and "content-type" not in own:
        headers["Content-Type"] = request.content_type
    if fresh:
        headers["connection"] = "close"
    sending = httpx.Request(
        request.method,
        _url(base + request.path),
        params=dict(request.query) or None,
        headers=headers,
        data=dict(request.form) if request.form is not None else None,
        json=request.json,
        content=request.content,
        extensions=extensions,
    )
    if request.basic_auth is not None:
        next(httpx.BasicAuth(*request.basic_auth).auth_flow(sending))
    return sending


def _failure(error: Exception) -> Failure | None:
    """Return what an error says about a request, None for one that is a fault of ours."""
    kind: FailureKind | None = None
    if isinstance(error, httpx.PoolTimeout):
        kind = "crowded"
    elif isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | Transient):
        kind = "unsent"
    elif isinstance(
        error, Invalid | UnicodeEncodeError | httpx.InvalidURL | httpx.LocalProtocolError | httpx.UnsupportedProtocol
    ):
        kind = "ours"
    elif isinstance(error, TimeoutError | httpx.TimeoutException):
        kind = "timeout"
    elif isinstance(error, httpx.TransportError | httpx.DecodingError | _TooLarge):
        kind = "broken"
    detail = error.code if isinstance(error, Invalid) else type(error).__name__
    return Failure(kind, detail) if kind else None


class _TooLarge(Exception):  # noqa: N818 (a verdict on an answer)
    """The answer passed the cap."""


async def _body(answer: httpx.Response) -> bytes:
    # Only an encoded body needs httpx's decoders; they are fed small pieces, so that a bomb is met while it is small.
    pieces: AsyncIterator[bytes]
    if "content-encoding" in answer.headers:
        pieces = answer.aiter_bytes()
    else:
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # noqa: S101 (an async transport's always is)
        pieces = aiter(answer.stream)
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise _TooLarge
    return bytes(body)


def _read(answer: httpx.Response, body: bytes) -> HttpResponse:
    try:
        document: Any = json.loads(body) if body else None
    except ValueError:
        document = None
    return HttpResponse(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, document, body)
