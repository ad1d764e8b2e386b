"""An ASGI app served over granian's RSGI interface, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chassis.http.rsgi import serve_asgi
from chassis.http.server import MAX_HEADER_BYTES, HttpServer
from chassis.testing.harness import until
from chassis.testing.ports import free_port

pytestmark = pytest.mark.asyncio

left: list[str] = []


async def echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {
            "method": request.method,
            "path": request.url.path,
            "query": str(request.query_params),
            "twice": request.headers.getlist("x-twice"),
            "body": body.decode(),
        },
        status_code=201,
        headers={"x-answer": "yes"},
    )


async def counted(_: Request) -> Response:
    async def lines() -> AsyncIterator[str]:
        for n in range(5):
            yield f"{n}\n"

    return StreamingResponse(lines())


async def patient(request: Request) -> Response:
    try:
        await request.body()
    except ClientDisconnect:
        left.append("body")
    return Response()


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    app = Starlette(
        routes=[
            Route("/echo/{name}", echo, methods=["GET", "POST"]),
            Route("/stream", counted),
            Route("/patient", patient, methods=["POST"]),
        ]
    )
    port = free_port()
    server = HttpServer(serve_asgi(app), "127.0.0.1", port, rsgi=True)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()


async def test_a_request_arrives_whole_and_its_answer_too() -> None:
    async with serving() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        twice = [("x-twice", "1"), ("x-twice", "2")]
        answer = await client.post("/echo/a%20b?x=1&y=%C3%A9", content=b"hello", headers=twice)
    assert answer.status_code == 201
    assert answer.headers["x-answer"] == "yes"
    assert answer.json() == {
        "method": "POST",
        "path": "/echo/a b",
        "query": "x=1&y=%C3%A9",
        "twice": ["1", "2"],
        "body": "hello",
    }


async def test_a_streamed_answer_is_sent_piece_by_piece() -> None:
    async with serving() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        answer = await client.get("/stream")
    assert answer.text == "0\n1\n2\n3\n4\n"


async def test_headers_over_the_limit_are_refused() -> None:
    async with serving() as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        flood = {"x-flood": "x" * (2 * MAX_HEADER_BYTES)}
        answer = await client.get("/stream", headers=flood)
    assert answer.status_code == 431


async def test_a_sender_that_leaves_inside_of_the_body_is_a_disconnect() -> None:
    left.clear()
    async with serving() as address:
        host, _, port = address.partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /patient HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.1)  # lint-skip: PB011 the request has to be under way before its sender leaves
        writer.transport.abort()

        async def noticed() -> bool:
            return left == ["body"]

        await until(noticed, "the disconnect")
