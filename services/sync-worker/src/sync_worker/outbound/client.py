"""Sends one request to a provider: pooled connections per host, a deadline, a cap on answers. No judgement, no retry.

Must never follow a redirect, carry a cookie from one tenant's call to another's, or connect to an address that a user
chose unless it is public.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import httpx

from chassis.clock import Clock
from contracts.errors import Invalid, Transient
from providers.provider import Provider
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.outbound.hosts import HostPins

CONNECT_TIMEOUT_S: Final = 2.0
# A full pool is our own congestion and no evidence against the provider (sync-worker.md §4.1).
POOL_TIMEOUT_S: Final = 1.0
MAX_CONNECTIONS: Final = 100
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024

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

    def __init__(self, clock: Clock, *, base_url_override: str = "") -> None:
        self._override = base_url_override.rstrip("/")
        self._pools: dict[str, _Pool] = {}
        self._pins = HostPins(clock)
        self._tls = ssl.create_default_context()

    async def close(self) -> None:
        """Close all pools."""
        for pool in self._pools.values():
            await pool.close()
        self._pools.clear()

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
        headers = dict(request.headers)
        if "host" in extensions:
            headers["Host"] = str(extensions.pop("host"))
        if request.content_type:
            headers.setdefault("Content-Type", request.content_type)
        if fresh:
            headers["Connection"] = "close"
        async with (
            self._pool(base).lend() as client,
            # httpx bounds each read, so an answer that drips could outlive the effect's lease.
            asyncio.timeout(timeout_s),
            client.stream(
                request.method,
                base + request.path,
                params=dict(request.query) or None,
                headers=headers,
                data=dict(request.form) if request.form is not None else None,
                json=request.json,
                content=request.content,
                auth=request.basic_auth,
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
                extensions=extensions,
            ) as answer,
        ):
            return _read(answer, await _body(answer))

    async def _place(self, provider: Provider, account: Account, request: HttpRequest) -> tuple[str, dict[str, Any]]:
        """Return where a request goes: the override, the vendor's own host, or the pinned address of a user's host."""
        if self._override:
            return f"{self._override}/{provider.slug}", {}
        base = provider.base_url(account, request)
        if not provider.host_is_chosen(account, request):
            return base, {}
        parts = urlsplit(base)
        host = parts.hostname or ""
        address = await self._pins.address(host)
        shown = f"[{address}]" if ":" in address else address
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{shown}{port}", {"sni_hostname": host, "host": host}

    def _pool(self, base: str) -> _Pool:
        host = urlsplit(base).netloc
        if host not in self._pools:
            self._pools[host] = _Pool(self._tls)
        return self._pools[host]


class _Pool:
    """Connections to one host: a client each, the one used last is lent first.

    One client with many connections looks at all of them for each of them before each request: with 64 in use that is
    7 ms of CPU a call, against 1 ms this way (measured; httpcore 1.0 `_assign_requests_to_connections`).
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._idle: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[httpx.AsyncClient]:
        """Lend a client for one request; raises `_Crowded` when none is free in time."""
        try:
            async with asyncio.timeout(POOL_TIMEOUT_S):
                await self._slots.acquire()
        except TimeoutError:
            raise _Crowded from None
        client = self._idle.pop() if self._idle else self._made()
        try:
            yield client
        finally:
            self._idle.append(client)
            self._slots.release()

    async def close(self) -> None:
        """Close all connections."""
        for client in self._all:
            await client.aclose()

    def _made(self) -> httpx.AsyncClient:
        # One client serves all tenants, so no cookie of one may ride on another's request.
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        client = httpx.AsyncClient(limits=one, follow_redirects=False, trust_env=False, cookies=jar, verify=self._tls)
        self._all.append(client)
        return client


class _Crowded(Exception):  # noqa: N818 (a reason)
    """All connections to a host are in use."""


def _failure(error: Exception) -> Failure | None:
    """Return what an error says about a request, None for one that is a fault of ours."""
    kind: FailureKind | None = None
    if isinstance(error, httpx.PoolTimeout | _Crowded):
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
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _TooLarge
    return bytes(body)


def _read(answer: httpx.Response, body: bytes) -> HttpResponse:
    try:
        document: Any = json.loads(body) if body else None
    except ValueError:
        document = None
    return HttpResponse(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, document, body)
