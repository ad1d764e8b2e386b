"""The client against a server that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from chassis.clock import SystemClock
from chassis.testing.ports import free_port
from providers.sdk import Account, HttpRequest, HttpResponse
from sync_worker.outbound import client as outbound
from sync_worker.outbound.client import Failure, ProviderClient

pytestmark = pytest.mark.asyncio

GET = HttpRequest("GET", "/thing")


class Server:
    """Answers every request with the bytes of `answer`, then closes if they say so; keeps the request heads."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.heads: list[bytes] = []
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                self.asked.set()
                if self.answer is None:
                    await reader.read()
                    break
                writer.write(self.answer)
                await writer.drain()
                if b"content-length" not in self.answer:
                    break
        writer.close()


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def calling(url: str, provider: Any) -> AsyncIterator[Callable[..., Any]]:
    """Give a function that sends one request."""
    client = ProviderClient(SystemClock(), base_url_override=url)
    account = Account("acct", {"api_key": "k"})

    async def call(request: HttpRequest = GET, timeout_s: float = 5) -> HttpResponse | Failure:
        return await client.send(provider, account, request, timeout_s)

    try:
        yield call
    finally:
        await client.close()


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers])
    return head.encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (http("200 OK", b'{"id": 1}'), 200),
        (http("302 Found", b"", "location: http://127.0.0.1:1/"), 302),
        (http("404 Not Found"), 404),
        (http("503 Away", b"not json"), 503),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nxxxx", "broken"),
        (b"no http at all\r\n\r\n", "broken"),
        (b"", "broken"),
    ],
    ids=["2xx", "redirect", "4xx", "5xx", "bad-coding", "garbage", "closed"],
)
async def test_an_answer_is_read_or_its_absence_named(kit: Any, answer: bytes, found: int | str) -> None:
    server = Server()
    server.answer = answer
    async with running(server) as url, calling(url, kit.payer) as call:
        result = await call()
        assert (result.kind if isinstance(result, Failure) else result.status) == found
        assert len(server.heads) == 1, "a redirect is not followed, a failure not repeated"
        if found == 200:
            assert (result.json, result.body, result.headers["content-length"]) == ({"id": 1}, b'{"id": 1}', "9")


async def test_nobody_there_is_provably_unsent_and_silence_is_a_timeout(kit: Any) -> None:
    async with calling(f"http://127.0.0.1:{free_port()}", kit.payer) as call:
        assert (await call()).kind == "unsent"
    server = Server()
    server.answer = None
    async with running(server) as url, calling(url, kit.payer) as call:
        assert (await call(timeout_s=0.1)).kind == "timeout"


async def test_what_never_left_is_no_unclear_timeout(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(outbound, "MAX_CONNECTIONS", 1)
    server = Server()
    server.answer = None
    async with running(server) as url, calling(url, kit.payer) as call:
        hanging = asyncio.create_task(call(timeout_s=5))
        await server.asked.wait()
        assert (await call(timeout_s=0.05)).kind == "crowded"
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        monkeypatch.setattr("aiohappyeyeballs.start_connection", never)
        assert (await call(timeout_s=0.05)).kind == "unsent"


async def test_an_answer_that_drips_does_not_outlive_the_deadline(kit: Any) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        if not await reader.read(1):
                            break
        writer.close()

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        async with calling(url, kit.payer) as call:
            async with asyncio.timeout(3):
                assert (await call(timeout_s=0.3)).kind == "timeout"


async def test_a_huge_answer_is_cut_off(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_ANSWER_BYTES", 10_000)
    server = Server()
    server.answer = http("200 OK", b"x" * 10_001)
    async with running(server) as url, calling(url, kit.payer) as call:
        assert (await call()).kind == "broken"


async def test_a_bomb_is_met_while_it_is_small(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_ANSWER_BYTES", 1_000_000)
    largest = 0
    decode = httpx._decoders.GZipDecoder.decode

    def watched(self: Any, data: bytes) -> bytes:
        nonlocal largest
        largest = max(largest, len(found := decode(self, data)))
        return found

    monkeypatch.setattr(httpx._decoders.GZipDecoder, "decode", watched)
    server = Server()
    server.answer = http("200 OK", gzip.compress(bytes(200_000_000)), "content-encoding: gzip")
    async with running(server) as url, calling(url, kit.payer) as call:
        assert (await call()).kind == "broken"
    assert largest < 20_000_000
    server.answer = http("200 OK", gzip.compress(b'{"id": 1}'), "content-encoding: gzip")
    async with running(server) as url, calling(url, kit.payer) as call:
        assert (await call()).json == {"id": 1}


async def test_headers_of_a_request_stand_before_our_own(kit: Any) -> None:
    server = Server()
    server.answer = http("200 OK")
    async with running(server) as url, calling(url, kit.payer) as call:
        await call(HttpRequest("GET", "/", headers={"User-Agent": "theirs"}, basic_auth=("u", "p"), query={"a": "b c"}))
        await call(HttpRequest("POST", "/form", form={"a": "b"}))
    head, form = (one.decode().lower() for one in server.heads)
    assert head.startswith(("get /payer/?a=b+c http/1.1", "get /payer/?a=b%20c http/1.1"))
    assert head.count("user-agent:") == 1
    assert "user-agent: theirs" in head
    assert "authorization: basic dtpw" in head
    assert "content-type: application/x-www-form-urlencoded" in form
    assert "user-agent: python-httpx" in form


async def test_a_request_that_http_cannot_carry_is_our_fault_and_no_crash(kit: Any) -> None:
    async with running(Server()) as url, calling(url, kit.payer) as call:
        for request in (
            HttpRequest("GET", "/", headers={"Authorization": "Bearer kl\u00fc\u20ac"}),
            HttpRequest("GET", "/", headers={"Authorization": "Bearer a\r\nb"}),
            HttpRequest("GET", "/a\x01b"),
        ):
            assert (await call(request)).kind == "ours"


async def test_no_cookie_goes_from_one_tenants_call_to_another(kit: Any) -> None:
    server = Server()
    server.answer = http("200 OK", b"{}", "set-cookie: session=canary; Path=/")
    async with running(server) as url, calling(url, kit.payer) as call:
        await call()
        await call()
    assert len(server.heads) == 2
    assert b"canary" not in b"".join(server.heads)
