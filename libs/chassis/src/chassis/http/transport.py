"""A lean transport below httpx's requests and answers: pooled HTTP/1.1 connections over a C parser (decision 24).

Speaks HTTP/1.1 and nothing else: no proxy, no redirect, no cookie, no retry. Must never send a request twice, and never
lend a connection whose last answer was not read to its end.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any, Final

import aiohappyeyeballs
import httpx

from chassis.http.wire import Wire, request_bytes

# A provider closes what lies idle, and a request on a connection that is just being closed may or may not have arrived.
IDLE_S: Final = 5.0
# Where tenants name hosts, addresses come and go; beyond this many places those that nobody uses now are forgotten.
MAX_ORIGINS: Final = 1000
# How long the first address is tried alone (RFC 8305 §5).
_NEXT_ADDRESS_S: Final = 0.25
# Keys of a request's extensions. `LEFT` is False until its first byte may be on the way.
LEFT: Final = "patchbay_left"
TLS: Final = "patchbay_tls"
_PORTS: Final = {"http": 80, "https": 443}
_OriginKey = tuple[str, str, int, str, ssl.SSLContext | None]


class PooledTransport(httpx.AsyncBaseTransport):
    """Connections by origin, at most `connections` to each; the one used last is lent first.

    Of a request's timeouts `connect` and `pool` are kept here; the whole exchange is bounded by its caller. A request
    with `Connection: close` has a connection of its own. The extension `sni_hostname` names the host that must prove
    itself where the URL holds its address, `TLS` is a context to use instead of the usual one, and `LEFT` tells whoever
    gave up whether any of it may have left.
    """

    def __init__(self, tls: ssl.SSLContext, *, connections: int) -> None:
        self._tls = tls
        self._connections = connections
        self._origins: dict[_OriginKey, _Origin] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, its body still to be read. Raises `httpx.TransportError`, in its usual kinds."""
        body = await request.aread()
        data = request_bytes(request, body)
        request.extensions[LEFT] = False
        origin = self._origin(request)
        limits = request.extensions.get("timeout", {})
        await origin.enter(limits.get("pool"))
        wire: Wire | None = None
        try:
            fresh = request.headers.get("connection") == "close"
            wire = None if fresh else origin.idle()
            if wire is None:
                wire = await origin.connect(limits.get("connect"))
            request.extensions[LEFT] = True
            status, headers = await wire.exchange(data)
        except BaseException:
            origin.leave(wire)
            raise
        return httpx.Response(status, headers=headers, stream=_Body(wire, origin), request=request)

    async def aclose(self) -> None:
        """Close all connections."""
        for origin in self._origins.values():
            origin.close()
        self._origins.clear()

    def _origin(self, request: httpx.Request) -> _Origin:
        url = request.url
        if url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"{url.scheme or 'no scheme'} is not spoken here")
        secure = url.scheme == "https"
        name = str(request.extensions.get("sni_hostname", "")) or url.host
        # Two hosts at one address share no connection, because its certificate was checked for one of them; nor do two
        # clients that present different ones.
        tls: ssl.SSLContext | None = request.extensions.get(TLS, self._tls) if secure else None
        key = (url.scheme, url.host, url.port or _PORTS[url.scheme], name, tls)
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= MAX_ORIGINS:
                self._forget_quiet()
            origin = self._origins[key] = _Origin(url.host, key[2], tls, name, self._connections)
        return origin

    def _forget_quiet(self) -> None:
        for key, origin in list(self._origins.items()):
            if origin.inside == 0:
                origin.close()
                del self._origins[key]


class _Origin:
    """The connections to one place."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, name: str, connections: int) -> None:
        self._place = (host, port)
        self._tls = tls
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])
        self._name = name
        self._slots = asyncio.Semaphore(connections)
        self.inside = 0  # requests that hold a slot, or wait for one
        self._idle: list[Wire] = []
        self._busy: set[Wire] = set()

    async def enter(self, timeout_s: float | None) -> None:
        """Take a slot; raises `httpx.PoolTimeout` when none is free in time."""
        self.inside += 1
        try:
            # A timeout costs ten times what a free slot does.
            async with asyncio.timeout(timeout_s) if self._slots.locked() else nullcontext():
                await self._slots.acquire()
        except BaseException as error:
            self.inside -= 1
            if isinstance(error, TimeoutError):
                raise httpx.PoolTimeout("all connections are in use") from None
            raise

    def idle(self) -> Wire | None:
        """Return a connection that waits for work, and drop those that waited for too long."""
        oldest = asyncio.get_running_loop().time() - IDLE_S
        while self._idle:
            wire = self._idle.pop()
            if wire.is_open and wire.idle_since >= oldest:
                self._busy.add(wire)
                return wire
            wire.abort()
        return None

    async def connect(self, timeout_s: float | None) -> Wire:
        """Open a connection; raises `httpx.ConnectTimeout` and `httpx.ConnectError`, and then nothing was sent."""
        host, port = self._place
        loop = asyncio.get_running_loop()
        wire = Wire(self._lost)
        try:
            async with asyncio.timeout(timeout_s):
                found: Any = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                one = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_S)
                try:
                    name = self._name if self._tls is not None else None
                    await loop.create_connection(lambda: wire, sock=one, ssl=self._tls, server_hostname=name)
                except BaseException:
                    one.close()
                    raise
        except TimeoutError:
            wire.abort()
            raise httpx.ConnectTimeout("no connection in time") from None
        except (OSError, ssl.SSLError, ssl.CertificateError) as error:
            wire.abort()
            raise httpx.ConnectError(type(error).__name__) from error
        self._busy.add(wire)
        return wire

    def leave(self, wire: Wire | None) -> None:
        """Give the slot back, and the connection if another request may follow on it."""
        if wire is not None:
            self._busy.discard(wire)
            if wire.reusable:
                wire.rest(asyncio.get_running_loop().time())
                self._idle.append(wire)
            else:
                wire.abort()
        self.inside -= 1
        self._slots.release()

    def close(self) -> None:
        """Drop every connection."""
        for wire in (*self._idle, *self._busy):
            wire.abort()
        self._idle.clear()

    def _lost(self, wire: Wire) -> None:
        if wire in self._idle:
            self._idle.remove(wire)


class _Body(httpx.AsyncByteStream):
    """The body of one answer; read to its end or closed, it gives the connection back."""

    def __init__(self, wire: Wire, origin: _Origin) -> None:
        self._wire = wire
        self._origin = origin
        self._left = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._wire.read():
            yield piece

    async def aclose(self) -> None:
        """Give the connection back. Safe to repeat."""
        if not self._left:
            self._left = True
            self._origin.leave(self._wire)
