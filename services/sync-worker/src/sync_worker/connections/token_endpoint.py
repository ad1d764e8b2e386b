"""POSTs to token endpoints, with a deadline, a cap on the answer and no redirects.

Must never log a field of a request or an answer, nor send one to an address that a tenant chose unless it is public.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from chassis.clock import Clock
from contracts.errors import Transient
from providers.oauth import TokenCall
from sync_worker.outbound.certificates import TlsContexts
from sync_worker.outbound.hosts import HostPins

DEADLINE_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 2.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
# Some vendors answer with a form unless they are asked for JSON.
_HEADERS: Final = {"Accept": "application/json"}


class TokenEndpoint:
    """The client of all token endpoints; `base_url_override` sends it to `<override>/<provider>/<path>` instead."""

    def __init__(self, clock: Clock, *, base_url_override: str = "") -> None:
        self._pins = HostPins(clock)
        self._tls = TlsContexts()
        self._override = base_url_override.rstrip("/")
        self._client: httpx.AsyncClient | None = None

    def address(self, slug: str, url: str) -> str:
        """Return where an address of a provider's OAuth server really is: the sandbox plays it if there is one."""
        if not self._override:
            return url
        parts = urlsplit(url)
        return f"{self._override}/{slug}{parts.path}" + (f"?{parts.query}" if parts.query else "")

    async def post(self, slug: str, call: TokenCall, *, deadline_s: float = DEADLINE_S) -> tuple[int, Any]:
        """Return status and JSON of the answer (None if it is none); raises `Transient` (`token_endpoint_unreachable`).

        It may then have been applied all the same. For a host that a tenant chose raises `Invalid` (`host_not_public`)
        and `Transient` (`host_unresolved`) before anything is sent.
        """
        url, extensions, headers = self.address(slug, call.url), dict[str, str](), dict(_HEADERS)
        if call.host_is_chosen and not self._override:
            url, extensions = await self._pins.pinned(url)
            # A connection to an address must not be used again for another host that stands there too.
            headers |= {"Host": extensions.pop("host"), "Connection": "close"}
        certificate = None if self._override else call.certificate
        # With a certificate of one connection: token calls are rare, so a client lives for the call.
        client = self._made(self._tls.of(certificate)) if certificate else self._opened()
        auth = httpx.BasicAuth(*call.basic_auth) if call.basic_auth else None
        body: dict[str, Any] = {"json" if call.as_json else "data": dict(call.fields)}
        try:
            async with (
                asyncio.timeout(deadline_s),
                client.stream("POST", url, auth=auth, headers=headers, extensions=extensions, **body) as answer,
            ):
                return answer.status_code, _json(await _read(answer))
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Transient("token_endpoint_unreachable", f"no answer: {type(error).__name__}") from None
        finally:
            if certificate:
                await client.aclose()

    async def close(self) -> None:
        """Close the pool. Idempotent."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = self._made(self._tls.plain)
        return self._client

    @staticmethod
    def _made(tls: ssl.SSLContext) -> httpx.AsyncClient:
        # No cookie of one tenant may ride on another's request.
        jar = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        timeout = httpx.Timeout(DEADLINE_S, connect=CONNECT_TIMEOUT_S)
        return httpx.AsyncClient(timeout=timeout, follow_redirects=False, trust_env=False, cookies=jar, verify=tls)


async def _read(answer: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise httpx.DecodingError("the answer is too large")
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
