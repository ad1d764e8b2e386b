"""A gateway without sockets, broker or database: its RSGI app, a publisher that remembers, endpoints as configured."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from chassis.claims.directory import DirectoryClaims
from chassis.clock import SystemClock
from chassis.http.rsgi import ProtocolClosed
from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.publisher import Record, RecordingPublisher
from chassis.testing.service_kit import LocalIssuer
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.gateway import DELIVERY_ACCEPTED, DeliveryRejected
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.provider import Provider
from providers.sdk import InboundRequest, KeyRequest
from webhook_gateway.addresses import networks
from webhook_gateway.admission import Admission
from webhook_gateway.dedup import Seen
from webhook_gateway.endpoints import EndpointRegistry
from webhook_gateway.flights import Bounds, Flights
from webhook_gateway.handshakes import Handshakes
from webhook_gateway.ingest import Ingest, Limits, Ports
from webhook_gateway.limits import RateLimits
from webhook_gateway.rejections import Rejections
from webhook_gateway.routes import Edge, Hooks, Times
from webhook_gateway.verification import Gate

TENANT = "t1"
LIMIT = 64 * 1024
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
URL = "https://hooks.test/hooks/{}"


class DictMemory:
    """The port of the dedup memory, without Redis: what is marked is known."""

    def __init__(self) -> None:
        self.seen: dict[bytes, Seen] = {}
        self.lifetimes_s: dict[bytes, int] = {}

    async def look(self, key: bytes) -> Seen | None:
        return self.seen.get(key)

    def mark(self, key: bytes, seen: Seen, lifetime_s: int) -> None:
        self.seen.setdefault(key, seen)
        self.lifetimes_s[key] = lifetime_s


class VendorKeys:
    """The port of the key cache: vendors' keys that were put here; everything else is out of reach."""

    def __init__(self) -> None:
        self.known: dict[str, bytes] = {}
        self.confirmed: list[str] = []

    async def get(self, request: KeyRequest) -> bytes:
        if request.name not in self.known:
            raise Transient("key_unavailable", "the vendor's key cannot be fetched")
        return self.known[request.name]

    async def confirm(self, url: str) -> None:
        self.confirmed.append(url)


class HeaderList:
    """Request headers as granian gives them: lower-case names, values that are not ASCII dropped."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._pairs = [(name.decode("latin-1").lower(), value.decode()) for name, value in raw if value.isascii()]

    def items(self) -> list[tuple[str, str]]:
        return list(dict(self._pairs).items())

    def get_all(self, key: str) -> list[str]:
        return [value for name, value in self._pairs if name == key]


@dataclass
class Scope:
    """A request's head."""

    method: str
    path: str
    query_string: str
    headers: HeaderList
    client: str = "192.0.2.7:5555"
    server: str = "127.0.0.1:8000"
    scheme: str = "http"
    http_version: str = "1.1"
    proto: str = "http"


class Exchange:
    """A request's body in chunks and its answer; after them the body ends, the sender leaves or falls silent."""

    def __init__(self, chunks: Sequence[bytes], then: str) -> None:
        self._chunks = chunks
        self._then = then
        self.read = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def __call__(self) -> bytes:
        body = b"".join([chunk async for chunk in self])
        if self._then == "leave":
            raise ProtocolClosed
        return body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            self.read += 1
            yield chunk
        if self._then == "stall":
            await asyncio.get_running_loop().create_future()

    async def client_disconnect(self) -> None: ...

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.response_bytes(status, headers, b"")

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Any:
        raise AssertionError(f"the gateway answers at once, not with {status} {headers} and a stream")

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert not self.status, "one request has one answer"
        self.status, self.headers, self.body = status, dict(headers), body


@dataclass(frozen=True)
class Reply:
    """An answer as the sender sees it; `chunks_read` tells how much of the body the gateway took."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks_read: int

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])


@dataclass
class Signer:
    """One connected provider: where it sends to and how it signs."""

    provider: Provider
    endpoint: str
    secret: str
    clock: ManualClock
    options: dict[str, str]

    @property
    def url(self) -> str:
        return URL.format(self.endpoint)

    def request(self, fixture: Fixture, body: bytes | None = None) -> InboundRequest:
        """Return a delivery signed now: the fixture's, or another body in its place."""
        draft = fixture.request({}, self.url)
        return self.provider.sign(
            draft if body is None else replace(draft, body=body),
            secret=self.secret,
            now=self.clock.now(),
            message_id=fixture.message_id,
            options=self.options,
        )

    def headers(self, body: bytes, fixture: Fixture | None = None) -> dict[str, str]:
        """Return the headers of a delivery with this body, signed now."""
        signed = self.request(fixture or self.fixture, body)
        return {name: values[0] for name, values in signed.headers.items()}

    @property
    def fixture(self) -> Fixture:
        """The fixture that these options allow."""
        return fixtures_for(self.provider, self.options)[0]


@dataclass
class Bench:
    """The gateway's request path with everything that a test may turn."""

    keyring: Keyring
    folder: Path
    body_timeout_s: float = 5.0
    publish_timeout_s: float = 1.8
    inline_bytes: int = LIMIT
    bounds: Bounds = field(default_factory=lambda: Bounds(100, 4 * 1024 * 1024))
    trusted_proxies: tuple[str, ...] = ("192.0.2.0/24",)
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    publisher: RecordingPublisher = field(default_factory=RecordingPublisher)
    memory: DictMemory = field(default_factory=DictMemory)
    vendor_keys: VendorKeys = field(default_factory=VendorKeys)
    leaving: bool = False

    def __post_init__(self) -> None:
        publisher: Any = self.publisher
        memory: Any = self.memory
        keys: Any = self.vendor_keys
        self.endpoints = EndpointRegistry(self.keyring)
        self.limits = RateLimits(self.clock)
        self.admission = Admission(self.limits, self.clock)
        self.flights = Flights(self.bounds, SystemClock())
        self.rejections = Rejections(publisher, self.clock)
        gate = Gate(keys)
        self.handshakes = Handshakes(gate, keys, self.rejections, publisher, self.keyring)
        self.claims = DirectoryClaims(self.folder)
        self.loaded = asyncio.Event()
        self.loaded.set()
        ports = Ports(publisher, publisher, gate, memory, self.admission, self.rejections, self.claims, self.clock)
        edge = Edge(
            endpoints=self.endpoints,
            loaded=self.loaded,
            ingest=Ingest(ports, Limits(body=LIMIT, inline=self.inline_bytes)),
            handshakes=self.handshakes,
            rejections=self.rejections,
            limits=self.limits,
            flights=self.flights,
            clock=self.clock,
            trusted_proxies=networks(self.trusted_proxies),
            max_body_bytes=LIMIT,
            times=Times(body=self.body_timeout_s, publish=self.publish_timeout_s),
            leaving=lambda: self.leaving,
        )
        self.app = Hooks(edge, cast("Any", None))

    def connect(self, provider: Provider, options: dict[str, str] | None = None, **settings: Any) -> Signer:
        """Configure an endpoint of a provider with one fresh secret."""
        chosen = variants(provider)[0] if options is None else options
        pair = provider.verifier(chosen).generate()
        endpoint = f"ep-{uuid4().hex[:8]}"
        self.configure(provider, endpoint, [("k1", pair.verifying, None, None)], options=chosen, **settings)
        return Signer(provider, endpoint, pair.signing, self.clock, chosen)

    def configure(
        self,
        provider: Provider,
        endpoint: str,
        secrets: Sequence[tuple[str, str, datetime | None, datetime | None]],
        *,
        sealed_for: str | None = None,
        **settings: Any,
    ) -> None:
        """Apply an endpoint's record as the state reader would; `settings` are fields of the record."""
        record: dict[str, Any] = {
            "endpoint": endpoint,
            "connection": uuid4(),
            "provider": provider.slug,
            "tenant": TENANT,
            "url": URL.format(endpoint),
            "secrets": tuple(
                SealedSecret(
                    key_id=key_id,
                    sealed=self.seal(value, sealed_for or endpoint, key_id),
                    not_before=not_before,
                    not_after=not_after,
                )
                for key_id, value, not_before, not_after in secrets
            ),
            "version": 1,
        }
        self.apply(EndpointConfigured(**(record | settings)))

    def seal(self, value: str, endpoint: str, key_id: str) -> str:
        place = endpoint_secret_place(TENANT, endpoint, key_id)
        return base64.b64encode(self.keyring.seal(value, place)).decode()

    def apply(self, configured: EndpointConfigured) -> None:
        envelope = Envelope(id="1", source="test", type=configured.TYPE, data=encode(configured))
        self.endpoints.apply(configured.endpoint, envelope)

    async def deliver(self, signer: Signer, fixture: Fixture | None = None, body: bytes | None = None) -> Reply:
        """Send a provider's own fixture, signed now."""
        return await self.send(signer.endpoint, signer.request(fixture or signer.fixture, body))

    async def send(self, endpoint: str, request: InboundRequest) -> Reply:
        """Send a request as it is."""
        self.vendor_keys.known |= request.keys
        raw = [
            (name.encode("latin-1"), value.encode("latin-1", "surrogateescape"))
            for name, values in request.headers.items()
            for value in values
        ]
        return await self.request(endpoint, [request.body], raw, method=request.method, query=request.query_string)

    async def post(self, endpoint: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply:
        """Send a body in one piece."""
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        return await self.request(endpoint, [body], raw, method=method)

    async def request(
        self,
        endpoint: str,
        chunks: Sequence[bytes],
        headers: Sequence[tuple[bytes, bytes]],
        *,
        method: str = "POST",
        query: str = "",
        then: str = "end",
        client: str = "192.0.2.7:5555",
    ) -> Reply:
        """Run one request; after the chunks the body ends, the sender leaves (`leave`) or falls silent (`stall`)."""
        exchange = Exchange(chunks, then)
        scope = Scope(method, f"/hooks/{endpoint}", query, HeaderList(headers), client)
        sweeping = asyncio.create_task(self.flights.run())
        try:
            await self.app(scope, exchange)
        finally:
            sweeping.cancel()
        return Reply(exchange.status, exchange.headers, exchange.body, exchange.read)

    @property
    def accepted(self) -> list[Record]:
        """Records of accepted events, those in quarantine too."""
        return [record for record in self.publisher.records if record.envelope.type == DELIVERY_ACCEPTED]

    @property
    def rejected(self) -> list[DeliveryRejected]:
        """Rejection records."""
        found = [record for record in self.publisher.records if record.envelope.type == DeliveryRejected.TYPE]
        return [decode(DeliveryRejected, record.envelope.data) for record in found]


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring({1: b"\x01" * 32}, 1)


@pytest.fixture(scope="session")
def make_bench(keyring: Keyring, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    folder = tmp_path_factory.mktemp("claims")
    return lambda **knobs: Bench(keyring, folder, **knobs)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)
