"""The transport below httpx against servers that keep to the rules, and against those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chassis.http import transport as pooled
from chassis.http import wire
from chassis.http.transport import PooledTransport

pytestmark = pytest.mark.asyncio

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Counts connections and keeps request heads; answers each request with the next of `answers`, or the last one."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.heads: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.url = ""
        self.hangs_up = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                await writer.drain()
                if self.hangs_up:
                    break
        writer.close()


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    async with listening:
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        for writer in server.writers:
            writer.close()


@asynccontextmanager
async def pool(connections: int = 10, tls: ssl.SSLContext | None = None) -> AsyncIterator[PooledTransport]:
    transport = PooledTransport(tls or ssl.create_default_context(), connections=connections)
    yield transport
    await transport.aclose()


async def fetch(transport: PooledTransport, url: str, *, patience_s: float = 5, **known: Any) -> httpx.Response:
    """Send a request and read its answer to the end."""
    async with asyncio.timeout(patience_s):
        answer = await transport.handle_async_request(httpx.Request("GET", url, **known))
        try:
            await answer.aread()
        finally:
            await answer.aclose()
    return answer


async def test_a_connection_is_used_again_and_whoever_wants_its_own_has_it() -> None:
    async with running(Server(OK)) as server, pool() as transport:
        for _ in range(3):
            answer = await fetch(transport, server.url)
            assert (answer.status_code, answer.content) == (200, b"{}")
        assert len(server.writers) == 1
        await fetch(transport, server.url, headers={"connection": "close"})
        assert len(server.writers) == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-late: 1\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000, b"x" * 300_000),
    ],
    ids=["chunked-with-trailer", "interim", "empty", "large"],
)
async def test_answers_of_every_shape_are_read_and_the_connection_goes_on(answer: bytes, body: bytes) -> None:
    async with running(Server(answer, OK)) as server, pool() as transport:
        first = await fetch(transport, server.url)
        assert (first.content, "x-late" in first.headers, "link" in first.headers) == (body, False, False)
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    server = Server(b"HTTP/1.1 200 OK\r\n\r\nall of it")
    server.hangs_up = True
    async with running(server), pool() as transport:
        assert (await fetch(transport, server.url)).content == b"all of it"
        assert (await fetch(transport, server.url)).content == b"all of it"
        assert len(server.writers) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\n", httpx.ReadError),
        (b"", httpx.ReadError),
        (b"SSH-2.0-OpenSSH\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, httpx.RemoteProtocolError),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, httpx.RemoteProtocolError),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"t: x\r\n" * 20_000,
            httpx.RemoteProtocolError,
        ),
    ],
    ids=[
        *("short", "short-chunk", "half-a-head", "nothing", "no-http", "upgrade", "both-lengths", "two-lengths"),
        *("endless-head", "endless-interim", "endless-trailers"),
    ],
)
async def test_a_broken_answer_is_an_error_and_its_connection_is_gone(answer: bytes, error: type[Exception]) -> None:
    server = Server(answer)
    server.hangs_up = True
    async with running(server), pool() as transport:
        with pytest.raises(error):
            await fetch(transport, server.url)
        server.answers, server.hangs_up = [OK], False
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 2


async def test_an_answer_that_comes_with_another_one_ends_the_connection() -> None:
    """What is behind the answer must never be taken for the answer to somebody else's request."""
    async with running(Server(OK + OK.replace(b"{}", b"[]"), OK)) as server, pool() as transport:
        assert (await fetch(transport, server.url)).content == b"{}"
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 2


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async with running(Server(OK)) as server, pool() as transport:
        await fetch(transport, server.url)
        server.writers[0].write(OK.replace(b"{}", b"[]"))
        await server.writers[0].drain()
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                await server.writers[0].wait_closed()
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 2


async def test_an_answer_that_is_not_read_to_its_end_costs_its_connection() -> None:
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + b"x" * 300_000
    async with running(Server(large, OK)) as server, pool(connections=1) as transport:
        answer = await transport.handle_async_request(httpx.Request("GET", server.url))
        await answer.aclose()
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 2


async def test_a_connection_that_lay_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "IDLE_S", -1.0)
    async with running(Server(OK)) as server, pool() as transport:
        await fetch(transport, server.url)
        await fetch(transport, server.url)
        assert len(server.writers) == 2


async def test_a_slow_reader_holds_the_sender_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_HELD_BYTES", 1000)
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 3_000_000
    async with running(Server(large)) as server, pool() as transport:
        answer = await transport.handle_async_request(httpx.Request("GET", server.url))
        pieces = aiter(answer.stream)  # type: ignore[arg-type]
        assert len(await anext(pieces)) <= 16 * 1024
        for _ in range(50):
            await asyncio.sleep(0)
        held = next(iter(transport._origins.values()))._busy
        assert next(iter(held))._held < 1_000_000
        assert sum([len(piece) async for piece in pieces]) > 2_900_000
        await answer.aclose()


async def test_a_full_pool_and_a_connection_that_takes_too_long_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"timeout": {"pool": 0.01, "connect": 0.01}}
    async with running(Server(OK)) as server, pool(connections=1) as transport:
        held = await transport.handle_async_request(httpx.Request("GET", server.url))
        with pytest.raises(httpx.PoolTimeout):
            await fetch(transport, server.url, extensions=limits)
        await held.aclose()

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr(aiohappyeyeballs, "start_connection", never)
        with pytest.raises(httpx.ConnectTimeout):
            await fetch(transport, server.url, headers={"connection": "close"}, extensions=limits)


async def test_whoever_gives_up_leaves_neither_a_slot_nor_a_connection_behind() -> None:
    unfinished = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
    async with running(Server(unfinished, OK)) as server, pool(connections=1) as transport:
        with pytest.raises(TimeoutError):
            await fetch(transport, server.url, patience_s=0.05)
        assert (await fetch(transport, server.url)).content == b"{}"
        assert len(server.writers) == 2


async def test_places_that_nobody_uses_are_forgotten_beyond_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "MAX_ORIGINS", 2)
    async with (
        running(Server(OK)) as first,
        running(Server(OK)) as second,
        running(Server(OK)) as third,
        pool() as some,
    ):
        held = await some.handle_async_request(httpx.Request("GET", first.url))
        for server in (second, third, second, third):
            assert (await fetch(some, server.url)).content == b"{}"
        assert await held.aread() == b"{}", "who is in use stays"
        await held.aclose()
        assert len(second.writers) == 2, "its connection was closed with it"
        await fetch(some, first.url)
        assert len(first.writers) == 1


async def test_requests_that_http_cannot_carry_are_refused_before_anything_is_sent() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"

    async with running(Server(OK)) as server, pool() as transport:
        for request in (
            httpx.Request("GET", server.url, headers={"x": "a\r\nhost: elsewhere"}),
            httpx.Request("GET", server.url, headers={"x": "a\x00"}),
            httpx.Request("GET", server.url, headers={"bad name": "a"}),
            httpx.Request("POST", server.url, content=parts()),
            httpx.Request("HEAD", server.url),
        ):
            with pytest.raises(httpx.LocalProtocolError):
                await transport.handle_async_request(request)
        with pytest.raises(httpx.UnsupportedProtocol):
            await fetch(transport, "ftp://127.0.0.1/")
        assert server.heads == []


def certificate(folder: Path, name: str) -> Path:
    """Return a file with a key and a certificate that it signed for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path


async def test_a_server_proves_the_name_that_was_asked_for(tmp_path: Path) -> None:
    path = certificate(tmp_path, "api.vendor.test")
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(path)
    trusting = ssl.create_default_context(cafile=str(path))
    async with running(Server(OK), serving) as server:
        async with pool(tls=trusting) as transport:
            known: dict[str, Any] = {"extensions": {"sni_hostname": "api.vendor.test"}}
            assert (await fetch(transport, server.url, **known)).content == b"{}"
            for extensions in ({"sni_hostname": "api.other.test"}, {}):
                with pytest.raises(httpx.ConnectError):
                    await fetch(transport, server.url, extensions=extensions)
        async with pool() as strange:
            with pytest.raises(httpx.ConnectError):
                await fetch(strange, server.url, **known)
    assert len(server.heads) == 1, "nothing is sent to whoever cannot prove it"
