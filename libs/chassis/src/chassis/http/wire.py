"""One HTTP/1.1 connection: a request at a time, and its answer as it arrives, parsed by llhttp.

Must never take bytes for an answer that nobody asked for, nor hold more of one than its reader has taken in.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools
import httpx

# Status line, headers, chunk framing and trailers of one answer, beside its body (h11 takes 100 KiB of headers).
MAX_FRAMING_BYTES: Final = 64 * 1024
# A chunk of one byte takes six on the wire, so this is generous, and still ends an answer that is all framing.
_FRAMING_PER_BYTE: Final = 16
# Beyond this the connection stops reading until the reader has caught up.
MAX_HELD_BYTES: Final = 256 * 1024
# A decoder expands a piece at once, so its size bounds what a bomb takes before anybody looks (1,032 times for zlib).
_PIECE_BYTES: Final = 16 * 1024
# Their answers name a length that does not follow, or turn the connection into something else.
_NO_BODY_BEHIND: Final = frozenset({"HEAD", "CONNECT"})
_FINAL_STATUS: Final = 200
_NOT_IN_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
_NOT_IN_TARGET: Final = re.compile(rb"[^\x21-\x7e]").search
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch

Headers = list[tuple[bytes, bytes]]


def request_bytes(request: httpx.Request, body: bytes) -> bytes:
    """Return a request as it goes over the wire; raises `httpx.LocalProtocolError` for one that HTTP cannot carry."""
    if request.method in _NO_BODY_BEHIND:
        raise httpx.LocalProtocolError(f"{request.method} is not spoken here")
    target = request.url.raw_path
    if _NOT_IN_TARGET(target):
        raise httpx.LocalProtocolError("the path holds a character that no request may have")
    lines = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), target)]
    for name, value in request.headers.raw:
        # A value that could end its line would put headers of its own into the request.
        if _NOT_IN_VALUE(value) or not _TOKEN(name):
            raise httpx.LocalProtocolError("a header holds a character that none may have")
        if name.lower() == b"transfer-encoding":
            raise httpx.LocalProtocolError("bodies are sent whole")
        lines.append(b"%s: %s\r\n" % (name, value))
    lines += (b"\r\n", body)
    return b"".join(lines)


class Wire(asyncio.Protocol):
    """A connection. `exchange`, then `read` until it returns nothing; `reusable` says whether another may follow."""

    def __init__(self, on_lost: Callable[[Wire], None]) -> None:
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._busy = False
        self._open = False
        self.idle_since = 0.0
        self._begin()

    def _begin(self) -> None:
        self._error: Exception | None = None
        self._headers: Headers = []
        self._status = 0
        self._answered = self._complete = self._sized = self._keep = self._paused = False
        self._pieces: deque[bytes] = deque()
        self._held = self._received = self._delivered = 0

    # --- what the pool and its callers use ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether the peer has not hung up."""
        return self._open

    @property
    def reusable(self) -> bool:
        """Whether the answer is read to its end and both sides keep the connection."""
        return self._open and self._complete and self._keep and not self._pieces

    async def exchange(self, request: bytes) -> tuple[int, Headers]:
        """Send a request and return the status and the headers of its answer; 1xx answers are passed over.

        Raises `httpx.ReadError` and `httpx.RemoteProtocolError`; the request may have been carried out then.
        """
        if self._transport is None or not self._open:
            raise httpx.ReadError("the connection was closed")
        self._begin()
        self._busy = True
        self._transport.write(request)
        while not self._answered:
            await self._wait()
        return self._status, self._headers

    async def read(self) -> bytes:
        """Return the next piece of the body, nothing at its end; raises as `exchange` does."""
        while not self._pieces:
            if self._complete:
                return b""
            await self._wait()
        piece = self._pieces.popleft()
        if len(piece) > _PIECE_BYTES:
            self._pieces.appendleft(piece[_PIECE_BYTES:])
            piece = piece[:_PIECE_BYTES]
        self._held -= len(piece)
        if self._paused and self._held <= MAX_HELD_BYTES and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return piece

    def rest(self, now: float) -> None:
        """Lie idle from now on; what comes meanwhile was asked for by nobody."""
        self._busy, self.idle_since = False, now

    def abort(self) -> None:
        """Drop the connection at once. Safe to repeat."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._keep = False
        self.abort()
        self._wake()

    # --- asyncio's side -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the open connection."""
        # uvloop's transports have the methods of `asyncio.Transport` without being one.
        self._transport, self._open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """Parse what came; an answer that nobody asked for ends the connection."""
        if not self._busy:
            self._fail(httpx.RemoteProtocolError("an answer without a request"))
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(type(error).__name__))
            return
        if self._received - self._delivered > MAX_FRAMING_BYTES + _FRAMING_PER_BYTE * self._delivered:
            self._fail(httpx.RemoteProtocolError("too much beside the body"))
            return
        if self._held > MAX_HELD_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end: of the answer, if it has no length of its own, else of the connection before its time."""
        self._open = False
        if self._busy and not self._complete:
            if self._answered and not self._sized and exc is None:
                self._complete = True
            else:
                self._error = self._error or httpx.ReadError("the connection ended before the answer")
        self._wake()
        self._on_lost(self)

    # --- the parser's side --------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer; one behind the answer that was asked for makes the connection useless."""
        if self._complete:
            self._keep = False
        elif not self._answered:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        if not self._answered:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Take the head of the answer, unless it is an interim one."""
        status = self._parser.get_status_code()
        if self._complete or status < _FINAL_STATUS:
            return
        self._status, self._answered = status, True
        known = {name.lower(): value for name, value in self._headers}
        self._sized = b"content-length" in known or b"chunked" in known.get(b"transfer-encoding", b"").lower()

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body until it is read."""
        if not self._complete:
            self._pieces.append(body)
            self._held += len(body)
            self._delivered += len(body)

    def on_message_complete(self) -> None:
        """Note the end of the answer, and whether another one may follow."""
        if self._answered and not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()
