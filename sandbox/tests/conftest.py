from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chassis.clock import SystemClock
from chassis.http.server import HttpServer
from chassis.testing.ports import free_port
from providers.provider import Provider
from providers.sdk import HttpRequest, InboundRequest
from sandbox.app import Sandbox
from sandbox.settings import Settings


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    box = Sandbox(Settings(), SystemClock())
    yield box
    await box.close()


@pytest_asyncio.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sandbox.app), base_url="http://sandbox") as http:
        yield http


@pytest_asyncio.fixture
async def served(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A client over a real connection, which is what some faults break."""
    port = free_port()
    server = HttpServer(sandbox.app, "127.0.0.1", port)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        yield http
    await server.stop()


Asker = Callable[[Provider, HttpRequest], Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
def ask(client: httpx.AsyncClient) -> Asker:
    """Send what provider code built, as the sync worker does."""

    async def send(provider: Provider, request: HttpRequest) -> httpx.Response:
        return await client.request(
            request.method,
            f"/{provider.slug}{request.path}",
            params=dict(request.query),
            headers=dict(request.headers),
            data=dict(request.form) if request.form is not None else None,
            json=request.json,
            content=request.content,
            auth=request.basic_auth,
        )

    return send


Answering = Callable[[InboundRequest], Coroutine[Any, Any, Response | None]]


@dataclass
class Receiver:
    """A webhook endpoint that keeps what it gets and answers with the statuses in `answers`, then with 200.

    `headers` go with every answer; `reply` may answer in its place, `delay_s` comes first.
    """

    url: str
    answers: list[int] = field(default_factory=list)
    got: list[InboundRequest] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    reply: Answering | None = None
    delay_s: float = 0


@pytest_asyncio.fixture(scope="session")
async def one_receiver() -> AsyncIterator[Receiver]:
    port = free_port()
    kept = Receiver(f"http://127.0.0.1:{port}/hooks/ep")

    async def hook(request: Request) -> Response:
        headers: dict[str, list[str]] = {}
        for name, value in request.headers.items():
            headers.setdefault(name, []).append(value)
        got = InboundRequest(request.method, kept.url, headers, await request.body(), request.url.query)
        kept.got.append(got)
        await asyncio.sleep(kept.delay_s)  # lint-skip: PB011 the receiver is slow on purpose
        answer = await kept.reply(got) if kept.reply is not None else None
        status = kept.answers.pop(0) if kept.answers else 200
        return answer or Response(kept.body, status, kept.headers, media_type="text/plain")

    methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT"]
    server = HttpServer(Starlette(routes=[Route("/hooks/ep", hook, methods=methods)]), "127.0.0.1", port)
    await server.start()
    yield kept
    await server.stop()


@pytest.fixture
def receiver(one_receiver: Receiver) -> Receiver:
    one_receiver.got.clear()
    one_receiver.answers.clear()
    one_receiver.headers.clear()
    one_receiver.body, one_receiver.reply, one_receiver.delay_s = "", None, 0
    return one_receiver
