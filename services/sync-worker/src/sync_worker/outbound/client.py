"""The only place that calls providers: pooled connections, deadlines, a cap on answers, and one reading of outcomes.

Provider code builds requests and parses answers; this module never knows which provider it talks to.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from chassis.clock import Clock
from chassis.telemetry.metrics import counter, gauge, histogram
from contracts.events.sync import Outcome
from providers.provider import Provider
from providers.sdk import HttpRequest, HttpResponse
from sync_worker.metrics import IN_FLIGHT, REQUEST_SECONDS, REQUESTS
from sync_worker.outbound.reports import Call, CallReporter

CONNECT_TIMEOUT_S: Final = 2.0
# A full pool is our own congestion and no evidence against the provider (sync-worker.md §4.1).
POOL_TIMEOUT_S: Final = 1.0
MAX_CONNECTIONS: Final = 100
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
MAX_RETRY_AFTER_S: Final = 3600.0
_THROTTLED: Final = 429


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended. `response` is there for every answer that could be read, whatever its status.

    `provably_unsent` is true when the request cannot have had an effect.
    """

    outcome: Outcome
    response: HttpResponse | None
    retry_after_s: float | None = None
    provably_unsent: bool = False


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What to call and on whose behalf; `tenant` and `credential` let the monitor weigh the evidence."""

    provider: Provider
    capability: str
    operation: str
    tenant: str
    credential: str
    timeout_s: float
    probe: bool = False


class ProviderClient:
    """Sends requests that provider code built. One per process; close it at the end."""

    def __init__(self, reporter: CallReporter, clock: Clock, *, base_url_override: str = "") -> None:
        self._reporter = reporter
        self._clock = clock
        self._override = base_url_override.rstrip("/")
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._closing = False

    async def close(self) -> None:
        """Close all pools. A call that this cuts off is no evidence against its provider."""
        self._closing = True
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    async def call(self, plan: CallPlan, request: HttpRequest) -> CallResult:
        """Send `request` and return how it ended; never raises for anything that the provider or network does."""
        slug = plan.provider.slug
        started = self._clock.monotonic()
        gauge(IN_FLIGHT).labels(slug).inc()
        try:
            result = await self._send(plan, request)
        finally:
            gauge(IN_FLIGHT).labels(slug).dec()
        seconds = self._clock.monotonic() - started
        if self._closing:
            return result
        counter(REQUESTS).labels(slug, plan.operation, result.outcome).inc()
        histogram(REQUEST_SECONDS).labels(slug, plan.operation).observe(seconds)
        self._reporter.record(
            Call(slug, plan.capability, plan.operation, result.outcome, plan.tenant, plan.credential, plan.probe),
            seconds,
        )
        return result

    async def _send(self, plan: CallPlan, request: HttpRequest) -> CallResult:
        base = f"{self._override}/{plan.provider.slug}" if self._override else plan.provider.api.base_url
        client = self._client(base)
        timeout = httpx.Timeout(plan.timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)
        try:
            # httpx bounds each read, so an answer that drips could outlive the effect's lease.
            async with (
                asyncio.timeout(plan.timeout_s),
                client.stream(
                    request.method,
                    base + request.path,
                    params=dict(request.query),
                    headers=dict(request.headers),
                    data=dict(request.form) if request.form is not None else None,
                    json=dict(request.json) if request.json is not None else None,
                    auth=request.basic_auth,
                    timeout=timeout,
                ) as answer,
            ):
                return _read(answer, await _body(answer))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return CallResult("connect_error", None, provably_unsent=True)
        except (UnicodeEncodeError, httpx.InvalidURL, httpx.LocalProtocolError):
            # A secret or reference of the connection that does not fit into HTTP: our side's fault.
            return CallResult("client_error", None, provably_unsent=True)
        except (TimeoutError, httpx.TimeoutException):
            return CallResult("timeout", None)
        except (httpx.TransportError, httpx.DecodingError, _TooLarge):
            return CallResult("server_error", None)

    def _client(self, base: str) -> httpx.AsyncClient:
        host = urlsplit(base).netloc
        if host not in self._clients:
            limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
            # One pool serves all tenants, so no cookie of one may ride on another's request.
            jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
            self._clients[host] = httpx.AsyncClient(limits=limits, follow_redirects=False, trust_env=False, cookies=jar)
        return self._clients[host]


class _TooLarge(Exception):  # noqa: N818 (a verdict on an answer)
    """The answer passed the cap."""


async def _body(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise _TooLarge
    return bytes(body)


def _read(answer: httpx.Response, body: bytes) -> CallResult:
    try:
        document: Any = json.loads(body) if body else None
    except ValueError:
        document = None
    response = HttpResponse(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, document)
    if answer.is_success:
        return CallResult("success", response)
    if answer.status_code == _THROTTLED:
        return CallResult("throttled", response, retry_after_s=_retry_after(answer), provably_unsent=True)
    if answer.is_server_error:
        return CallResult("server_error", response, retry_after_s=_retry_after(answer))
    return CallResult("client_error", response)


def _retry_after(answer: httpx.Response) -> float | None:
    """Return the delta-seconds form of Retry-After, capped; the date form needs the provider's clock and is left."""
    text = answer.headers.get("retry-after", "")
    return min(float(text), MAX_RETRY_AFTER_S) if text.isdecimal() else None
