"""An ASGI app behind granian's RSGI interface, for a service whose hot path speaks RSGI itself.

RSGI costs 13 µs less per request than ASGI (bench/README.md); only the webhook gateway needs that. Must never buffer a
request body: the app behind it counts bytes as they come.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]  # re-exported without saying so
from starlette.types import ASGIApp, Message

__all__ = ["Exchange", "HeaderList", "Headers", "ProtocolClosed", "RsgiApp", "Scope", "Stream", "serve_asgi"]

HeaderList = list[tuple[str, str]]


class Headers(Protocol):
    """Request headers. Values that are not visible ASCII are absent, as granian drops them."""

    def items(self) -> HeaderList:
        """Return lower-case names with values; of a repeated name only the last value."""
        ...

    def get_all(self, key: str) -> list[str]:
        """Return all values of a name, in order."""
        ...


class Scope(Protocol):
    """What granian tells about a request; `path` is percent-decoded, `client` is `address:port`."""

    proto: str
    http_version: str
    scheme: str
    server: str
    client: str
    method: str
    path: str
    query_string: str

    @property
    def headers(self) -> Headers:
        """The request's headers."""
        ...


class Stream(Protocol):
    """A response body that is sent piece by piece."""

    async def send_bytes(self, data: bytes) -> None:
        """Send one piece; waits while the client's buffer is full."""
        ...


class Exchange(Protocol):
    """One request's body and its answer (granian's `RSGIHTTPProtocol`)."""

    async def __call__(self) -> bytes:
        """Return the whole body; unbounded, so only for a bounded Content-Length."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives."""
        ...

    async def client_disconnect(self) -> None:
        """Return when the client has left."""
        ...

    def response_empty(self, status: int, headers: HeaderList) -> None:
        """Answer without a body."""
        ...

    def response_bytes(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Answer with a body."""
        ...

    def response_stream(self, status: int, headers: HeaderList) -> Stream:
        """Answer with a body that follows."""
        ...


RsgiApp = Callable[[Any, Any], Awaitable[None]]


def serve_asgi(app: ASGIApp) -> RsgiApp:
    """Return an RSGI app that serves HTTP requests with `app`; other protocols are not answered."""

    async def serve(scope: Scope, exchange: Exchange) -> None:
        if scope.proto == "http":
            answer = _Answer(exchange)
            await app(_asgi_scope(scope), _receiver(scope, exchange), answer.send)

    return serve


class _Answer:
    """Turns ASGI's response messages into one RSGI call, or a stream when the body comes in pieces."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._status = 500
        self._headers: HeaderList = []
        self._stream: Stream | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._stream is None and not more:
            self._exchange.response_bytes(self._status, self._headers, body)
            return
        if self._stream is None:
            self._stream = self._exchange.response_stream(self._status, self._headers)
        if body:
            await self._stream.send_bytes(body)


def _asgi_scope(scope: Scope) -> dict[str, Any]:
    address, _, port = scope.client.rpartition(":")
    host, _, own_port = scope.server.rpartition(":")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": scope.http_version,
        "scheme": scope.scheme,
        "server": (host, int(own_port or 0)),
        "client": (address, int(port or 0)),
        "method": scope.method,
        "root_path": "",
        "path": scope.path,
        "raw_path": scope.path.encode(),
        "query_string": scope.query_string.encode("latin-1", "replace"),
        "headers": [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name in dict(scope.headers.items())
            for value in scope.headers.get_all(name)
        ],
        "state": {},
    }


def _receiver(scope: Scope, exchange: Exchange) -> Callable[[], Awaitable[Message]]:
    pieces = aiter(exchange)
    declared = scope.headers.get_all("content-length")
    missing = int(declared[0]) if declared else 0
    ended = False

    async def receive() -> Message:
        nonlocal ended, missing
        if ended:
            await exchange.client_disconnect()
            return {"type": "http.disconnect"}
        try:
            piece = await anext(pieces)
        except StopAsyncIteration:
            ended = True
        else:
            missing -= len(piece)
            return {"type": "http.request", "body": piece, "more_body": True}
        # granian ends the iteration in silence when the client leaves, so only the declared length tells it apart.
        if missing > 0:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive
