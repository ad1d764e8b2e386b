"""The simulated APIs as one ASGI app: `/<slug>/...` to the provider's behaviour, through its current fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis.clock import Clock
from chassis.http.problems import not_found
from chassis.telemetry.metrics import counter
from contracts.errors import Invalid
from sandbox.behaviours.base import Answer, Behaviour, Call
from sandbox.faults import Fault, FaultDesk
from sandbox.metrics import API_REQUESTS

MAX_BODY_BYTES: Final = 1024 * 1024
DEFAULT_HANG_MS: Final = 60_000


class ProviderApis:
    """The ASGI endpoint of `/{slug}/{path}`."""

    def __init__(self, behaviours: Mapping[str, Behaviour], faults: FaultDesk, clock: Clock) -> None:
        self._behaviours = behaviours
        self._faults = faults
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises `Problem` 404 for a provider that is not played."""
        request = Request(scope, receive)
        slug = request.path_params["slug"]
        behaviour = self._behaviours.get(slug)
        if behaviour is None:
            raise not_found("provider with an API")
        call = await _call(request)
        fault = self._faults.hit(slug)
        counter(API_REQUESTS).labels(slug, fault.mode).inc()
        response = await self._answer(behaviour, call, fault)
        await response(scope, receive, _cut_short(send) if fault.mode == "drop_after_apply" else send)

    async def _answer(self, behaviour: Behaviour, call: Call, fault: Fault) -> Response:
        if fault.mode == "latency":
            await self._clock.sleep(fault.latency_ms / 1000)
        if fault.mode == "hang":
            await self._clock.sleep((fault.latency_ms or DEFAULT_HANG_MS) / 1000)
            return _response(Answer(504, behaviour.failure(504, "gateway timeout")))
        if fault.mode == "throttle":
            headers = {"Retry-After": str(fault.retry_after_s)}
            return _response(Answer(429, behaviour.failure(429, "too many requests"), headers))
        if fault.mode == "error":
            return _response(Answer(500, behaviour.failure(500, "internal error")))
        if fault.mode == "outage":
            return _response(Answer(503, behaviour.failure(503, "service unavailable")))
        try:
            return _response(behaviour.handle(call))
        except Invalid as error:
            return _response(Answer(400, behaviour.failure(400, error.detail)))


async def _call(request: Request) -> Call:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return Call(
        method=request.method,
        path=f"/{request.path_params['path']}",
        query=dict(request.query_params),
        headers=dict(request.headers),
        body=bytes(body[:MAX_BODY_BYTES]),
    )


def _response(answer: Answer) -> Response:
    return Response(orjson.dumps(answer.body), answer.status, dict(answer.headers), media_type="application/json")


def _cut_short(send: Send) -> Send:
    """Return a `send` that loses the end of the body: a server breaks the connection when less than declared comes."""

    async def lossy(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            kept = body[: len(body) // 2] if isinstance(body, bytes) else b""
            await send({"type": "http.response.body", "body": kept, "more_body": True})
        else:
            await send(message)

    return lossy  # type: ignore[return-value]
