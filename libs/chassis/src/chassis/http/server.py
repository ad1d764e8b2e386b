"""The HTTP side of a service: its API on granian in the service's own event loop, with probes and metrics beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.http.problems import Problem, render
from chassis.telemetry.metrics import HTTP_REQUESTS, counter

# API bodies are small JSON documents; webhook bodies have a limit of their own in the gateway.
MAX_API_BODY_BYTES: Final = 256 * 1024
STOP_TIMEOUT_S: Final = 5.0
# granian counts open connections here, idle ones too: with a low figure a few thousand silent sockets lock others out.
MAX_CONNECTIONS: Final = 20_000
BACKLOG: Final = 2048
# A client that dribbles its headers is cut off; bodies have deadlines of their own.
HEADER_TIMEOUT_MS: Final = 10_000
# granian answers 431 beyond it. Providers' headers are under 4 KiB; bodies stream through a buffer of this size.
MAX_HEADER_BYTES: Final = 64 * 1024

Problems = Callable[[], list[str]]


class _LimitBody:
    """Refuses API bodies over the limit, declared or streamed: no server of ours bounds them (stack.md §4)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > MAX_API_BODY_BYTES:
                raise Problem(413, "body_too_large", f"body: at most {MAX_API_BODY_BYTES} bytes")
            return message

        await self._app(scope, limited, send)


class _CountRequests:
    """Counts API requests by route template, so that ids never become labels."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"].startswith("/v1/"):
                route = getattr(scope.get("route"), "path", "unmatched")
                counter(HTTP_REQUESTS).labels(route, scope["method"], str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)


def build_app(routes: Sequence[BaseRoute], *, live: Problems, ready: Problems) -> Starlette:
    """Return the ASGI app: `routes` plus `/live`, `/ready` and `/metrics`; every error is problem details."""

    async def probe_live(_request: Request) -> Response:
        return _probe(live())

    async def probe_ready(_request: Request) -> Response:
        return _probe(ready())

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    probes = [Route("/live", probe_live), Route("/ready", probe_ready), Route("/metrics", metrics)]
    return Starlette(
        routes=[*routes, *probes],
        middleware=[Middleware(_CountRequests), Middleware(_LimitBody)],
        exception_handlers={HTTPException: render, Problem: render, Exception: render},
    )


def _probe(problems: list[str]) -> Response:
    # The process, since two of them share the port while one replaces the other.
    return JSONResponse({"ok": not problems, "problems": problems, "pid": os.getpid()}, 503 if problems else 200)


class HttpServer:
    """granian inside the service's event loop, so that one loop owns intake and drain.

    The port is bound with SO_REUSEPORT: while one process replaces another, the kernel spreads connections over both.

    `rsgi` says that `app` speaks granian's own interface instead of ASGI. HTTP/1.1 only: a proxy in front ends TLS and
    HTTP/2, whose default of 16 MiB of headers would be one more thing to bound.
    """

    def __init__(self, app: Any, host: str, port: int, *, rsgi: bool = False) -> None:
        self._server = Server(
            app,
            address=host,
            port=port,
            interface=Interfaces.RSGI if rsgi else Interfaces.ASGINL,
            backlog=BACKLOG,
            backpressure=MAX_CONNECTIONS,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS, max_buffer_size=MAX_HEADER_BYTES),
            websockets=False,
            log_access=False,
            log_enabled=False,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, unless it listens already; raises `OSError` when the port is taken by another program."""
        if self._task is not None:
            return
        self._task = asyncio.create_task(self._server.serve())
        # A bind error ends the task at once; anything later is the server's life.
        done, _ = await asyncio.wait({self._task}, timeout=0.2)
        if done:
            self._task.result()
            raise OSError("the HTTP server ended at its start")

    async def stop(self) -> None:
        """Stop accepting, finish what is in flight, and return. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        self._server.stop()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await task
        except TimeoutError:
            task.cancel()
