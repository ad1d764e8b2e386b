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
from sandbox.behaviours.base import Answer, Call
from sandbox.catalogue import Played
from sandbox.faults import Fault, FaultDesk
from sandbox.metrics import API_REQUESTS

MAX_BODY_BYTES: Final = 1024 * 1024
DEFAULT_HANG_MS: Final = 60_000
_SPOILED: Final[dict[str, tuple[int, str, tuple[tuple[str, str], ...]]]] = {
    "hang": (504, "gateway timeout", ()),
    "throttle": (429, "too many requests", (("Retry-After", "{retry_after_s}"),)),
    "error": (500, "internal error", ()),
    "outage": (503, "service unavailable", ()),
}
_NONSENSE: Final = b"<html><body>We will be right back</body></html>"


class ProviderApis:
    """The ASGI endpoint of `/{slug}/{path}`."""

    def __init__(self, behaviours: Mapping[str, Played], faults: FaultDesk, clock: Clock) -> None:
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
        fault = self._faults.hit(slug, behaviour.operation(call))
        counter(API_REQUESTS).labels(slug, fault.mode).inc()
        response = await self._answer(behaviour, call, fault)
        await response(scope, receive, _cut_short(send) if fault.mode == "drop_after_apply" else send)

    async def _answer(self, behaviour: Played, call: Call, fault: Fault) -> Response:
        if fault.mode == "latency":
            await self._clock.sleep(fault.latency_ms / 1000)
        if fault.mode == "hang":
            await self._clock.sleep((fault.latency_ms or DEFAULT_HANG_MS) / 1000)
        spoiled = _spoiled(behaviour, call, fault)
        if spoiled is not None:
            return _response(spoiled)
        try:
            answer = behaviour.handle(call)
        except Invalid as error:
            answer = Answer(400, behaviour.failure(400, error.detail))
        if fault.mode == "late":
            await self._clock.sleep(fault.latency_ms / 1000)
        return Response(_NONSENSE, 200) if fault.mode == "nonsense" else _response(answer)


def _spoiled(behaviour: Played, call: Call, fault: Fault) -> Answer | None:
    """Return the answer of a fault that applies nothing, or None."""
    if fault.mode == "refuse":
        return behaviour.refusal(call)
    status, text, headers = _SPOILED.get(fault.mode, (0, "", ()))
    known = {name: value.format(retry_after_s=fault.retry_after_s) for name, value in headers}
    return Answer(status, behaviour.failure(status, text), known) if status else None


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
