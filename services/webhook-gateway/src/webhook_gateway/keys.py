"""Vendors' published keys: fetched from pinned hosts with a deadline, and remembered.

Must never follow a redirect, ask an address that the request for a key does not pin, or wait longer than its deadline.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import warnings
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import certifi
import httpx
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from chassis.clock import Clock
from chassis.telemetry.logs import logger
from contracts.errors import Transient
from providers.sdk import KeyRequest, Refused

log = logger(__name__)

# Below the shortest published deadline of a sender (3 s), with room for the broker.
DEADLINE_S: Final = 1.0
# A confirmation is made after the answer, so nobody waits for it.
CONFIRM_DEADLINE_S: Final = 10.0
# Key sets have some kilobytes; certificates with their chain hardly ten.
MAX_BYTES: Final = 64 * 1024
MAX_ENTRIES: Final = 256
MIN_TTL_S: Final = 300.0
MAX_TTL_S: Final = 86_400.0
# What a vendor who says nothing about caching gets.
DEFAULT_TTL_S: Final = 3_600.0
# After a failure, and before a set that lacks a key is asked for again: strangers choose the key ids.
NEGATIVE_TTL_S: Final = 30.0
# Fetches that may be started at one host: more than any rotation needs.
MAX_FETCHES: Final = 10
FETCH_WINDOW_S: Final = 10.0
_OK: Final = 200

V = TypeVar("V")


@dataclass(slots=True)
class _Entry:
    data: bytes
    fetched_at: float
    fresh_until: float


class KeyCache:
    """Fetches keys for verifiers. One per process; `close` it at the end.

    Safe for concurrent use: one fetch is under way for a key, however many deliveries wait for it. With `override`,
    which is for development, `https://host/path` is asked at `<override>/host/path`, and no certificate's chain is
    checked, since whoever answers there made it himself.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        client: httpx.AsyncClient | None = None,
        deadline_s: float = DEADLINE_S,
        roots: Sequence[x509.Certificate] | None = None,
        override: str = "",
    ) -> None:
        self._clock = clock
        self._override = override
        if override:
            log.warning("vendor_keys_overridden", url=override)
        self._client = client or httpx.AsyncClient(follow_redirects=False, headers={"accept-encoding": "identity"})
        self._deadline_s = deadline_s
        self._roots = roots
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._failed: OrderedDict[str, tuple[float, Exception]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[bytes]] = {}
        self._started: OrderedDict[str, deque[float]] = OrderedDict()

    async def close(self) -> None:
        """Abandon what is under way and close the connections."""
        for flight in self._flights.values():
            flight.cancel()
        await asyncio.gather(*self._flights.values(), return_exceptions=True)
        await self._client.aclose()

    async def get(self, request: KeyRequest) -> bytes:
        """Return what a key's address answers, remembered for as long as its headers say, five minutes to a day.

        A remembered set that lacks the wanted key is asked for again, but at most every 30 s. Raises `Transient` when
        the key cannot be had before the deadline, which is remembered for 30 s, and `Refused` (`bad_signature`) for a
        certificate that leads to no known root.
        """
        place = f"{request.name}|{hashlib.sha256(request.body).hexdigest()}"
        entry = self._remembered(place, request.kid)
        if entry is not None:
            return entry
        flight = self._flights.get(place)
        if flight is None:
            flight = asyncio.create_task(self._fetched(place, request))
            self._flights[place] = flight
            flight.add_done_callback(lambda done: self._landed(place, done))
        # A caller that is cancelled must not take the key away from those who wait for it too.
        return await asyncio.shield(flight)

    async def confirm(self, url: str) -> None:
        """Fetch an address that a verified handshake named and its manifest pins; raises `Transient` on failure."""
        if urlsplit(url).scheme != "https":
            raise Transient("confirmation_failed", "the address is not https")
        try:
            async with (
                asyncio.timeout(CONFIRM_DEADLINE_S),
                self._client.stream("GET", self._address(url)) as response,
            ):
                status = response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Transient("confirmation_failed", type(error).__name__) from error
        if not httpx.codes.is_success(status):
            raise Transient("confirmation_failed", f"answered {status}")

    def _remembered(self, place: str, kid: str) -> bytes | None:
        """Return a remembered answer; raises a remembered failure."""
        now = self._clock.monotonic()
        entry = self._entries.get(place)
        if entry is not None and now < entry.fresh_until:
            self._entries.move_to_end(place)
            # Whether the set holds the key is the verifier's to say; the id's bytes are a good hint.
            if not kid or kid.encode() in entry.data or now - entry.fetched_at < NEGATIVE_TTL_S:
                return entry.data
        failure = self._failed.get(place)
        if failure is not None and now < failure[0]:
            raise failure[1]
        return None

    async def _fetched(self, place: str, request: KeyRequest) -> bytes:
        parts = urlsplit(request.url)
        if parts.scheme != "https" or parts.username is not None or re.fullmatch(request.pinned, request.url) is None:
            raise Transient("key_unavailable", "the address is not pinned")
        self._count(parts.hostname or "")
        try:
            data, ttl_s = await self._fetch(request)
            if request.chain and not self._override:
                await self._check_chain(data, request.root)
        except (Transient, Refused) as error:
            _remember(self._failed, place, (self._clock.monotonic() + NEGATIVE_TTL_S, error))
            log.warning("key_not_fetched", host=parts.hostname, why=str(error))
            raise
        now = self._clock.monotonic()
        _remember(self._entries, place, _Entry(data, now, now + ttl_s))
        self._failed.pop(place, None)
        return data

    def _address(self, url: str) -> str:
        return f"{self._override}/{url.removeprefix('https://')}" if self._override else url

    def _landed(self, place: str, flight: asyncio.Task[bytes]) -> None:
        self._flights.pop(place, None)
        if not flight.cancelled():
            flight.exception()  # seen, even when every caller has left

    async def _fetch(self, request: KeyRequest) -> tuple[bytes, float]:
        headers = {"content-type": "application/json"} if request.body else {}
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._client.stream(
                    request.method, self._address(request.url), content=request.body or None, headers=headers
                ) as response,
            ):
                if response.status_code != _OK or "content-encoding" in response.headers:
                    raise Transient("key_unavailable", f"answered {response.status_code}")
                return await _bounded(response), _ttl_s(response.headers.get("cache-control", ""))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Transient("key_unavailable", type(error).__name__) from error

    def _count(self, host: str) -> None:
        now = self._clock.monotonic()
        started = self._started.get(host) or deque(maxlen=MAX_FETCHES)
        if len(started) == MAX_FETCHES and now - started[0] < FETCH_WINDOW_S:
            raise Transient("key_unavailable", "too many keys were asked for")
        started.append(now)
        _remember(self._started, host, started)

    async def _check_chain(self, data: bytes, root: bytes) -> None:
        """Raise `Refused` unless the first certificate leads to a known root through the others."""
        known = self._roots if self._roots is not None else await asyncio.to_thread(_known_roots)
        # Any purpose: the names that matter are checked by the verifier, which knows the vendor's.
        leaf = ExtensionPolicy.permit_all().may_be_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
        try:
            roots = [*known, *(x509.load_pem_x509_certificates(root) if root else ())]
            policy = PolicyBuilder().store(Store(roots)).time(self._clock.now())
            policy = policy.extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=leaf)
            found = x509.load_pem_x509_certificates(data)
            policy.build_client_verifier().verify(found[0], found[1:])
        except (VerificationError, ValueError, UnsupportedAlgorithm):
            raise Refused("bad_signature") from None


@lru_cache(maxsize=1)
def _known_roots() -> list[x509.Certificate]:
    """Return the roots that browsers trust; read once, some ten milliseconds."""
    with warnings.catch_warnings():
        # One of them has a serial number that RFC 5280 does not allow, which is nothing to tell an operator.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())


async def _bounded(response: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_raw():
        data += chunk
        if len(data) > MAX_BYTES:
            raise Transient("key_unavailable", f"the answer has more than {MAX_BYTES} bytes")
    return bytes(data)


def _ttl_s(cache_control: str) -> float:
    found = re.search(r"(?:^|[,\s])max-age=(\d{1,9})", cache_control.lower())
    seconds = float(found[1]) if found else DEFAULT_TTL_S
    return min(max(seconds, MIN_TTL_S), MAX_TTL_S)


def _remember(memory: OrderedDict[str, V], place: str, value: V) -> None:
    memory[place] = value
    memory.move_to_end(place)
    while len(memory) > MAX_ENTRIES:
        memory.popitem(last=False)
