"""A gateway without sockets, broker or database: its ASGI app, a publisher that remembers, endpoints as configured."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from chassis.sealing import Keyring
from chassis.testing.clock import ManualClock
from chassis.testing.service_kit import LocalIssuer
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.errors import Transient
from contracts.events.gateway import DeliveryAttributes, DeliveryRejected
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.topics import GATEWAY_REJECTIONS, Lane, Topic
from providers.fixtures import Fixture
from providers.provider import Provider
from webhook_gateway.endpoints import EndpointRegistry
from webhook_gateway.ingest import Ingest
from webhook_gateway.routes import Hooks

TENANT = "t1"
LIMIT = 64 * 1024
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    """What would be on the broker."""

    topic: str
    key: str
    envelope: Envelope

    @property
    def attributes(self) -> DeliveryAttributes:
        return DeliveryAttributes.of(self.envelope)

    @property
    def payload(self) -> bytes:
        return self.attributes.payload(self.envelope.data)


class RecordingPublisher:
    """The port of the real publisher. `fail_from` is the number of the first publish that the broker does not take."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.timeouts_s: list[float] = []
        self.fail_from: int | None = None

    async def publish(self, topic: Topic, key: str, envelope: Envelope, *, timeout_s: float = 5.0) -> tuple[int, int]:
        self.timeouts_s.append(timeout_s)
        if self.fail_from is not None and len(self.timeouts_s) > self.fail_from:
            raise Transient("broker_unavailable", "TimeoutError")
        self.records.append(Record(topic.name, key, envelope))
        return 0, len(self.records)


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
    url: str
    secret: str
    clock: ManualClock

    def headers(self, body: bytes, fixture: Fixture | None = None) -> dict[str, str]:
        """Return the headers of a delivery signed now, with those of the fixture that are not signed."""
        signed = self.provider.verifier().sign(
            body,
            url=self.url,
            secret=self.secret,
            now=self.clock.now(),
            content_type=fixture.content_type if fixture else "application/json",
            message_id=fixture.message_id if fixture else "msg_1",
        )
        return {**(fixture.headers if fixture else {}), **signed}


@dataclass
class Bench:
    """The gateway's request path with everything that a test may turn."""

    keyring: Keyring
    body_timeout_s: float = 5.0
    clock: ManualClock = field(default_factory=lambda: ManualClock(START))
    publisher: RecordingPublisher = field(default_factory=RecordingPublisher)

    def __post_init__(self) -> None:
        self.endpoints = EndpointRegistry(self.keyring)
        publisher: Any = self.publisher
        ingest = Ingest(publisher, self.clock, max_body_bytes=LIMIT, publish_timeout_s=1.8)
        self.app = Hooks(
            self.endpoints, ingest, self.clock, None, max_body_bytes=LIMIT, body_timeout_s=self.body_timeout_s
        )

    def connect(self, provider: Provider, *, lane: Lane = Lane.STANDARD) -> Signer:
        """Configure an endpoint of a provider with one fresh secret."""
        pair = provider.verifier().generate()
        endpoint = f"ep-{uuid4().hex[:8]}"
        self.configure(provider, endpoint, [("k1", pair.verifying, None, None)], lane=lane)
        return Signer(provider, endpoint, f"https://hooks.test/hooks/{endpoint}", pair.signing, self.clock)

    def configure(
        self,
        provider: Provider,
        endpoint: str,
        secrets: Sequence[tuple[str, str, datetime | None, datetime | None]],
        *,
        lane: Lane = Lane.STANDARD,
        version: int = 1,
        sealed_for: str | None = None,
    ) -> None:
        """Apply an endpoint's record as the state reader would."""
        configured = EndpointConfigured(
            endpoint=endpoint,
            connection=uuid4(),
            provider=provider.slug,
            tenant=TENANT,
            url=f"https://hooks.test/hooks/{endpoint}",
            lane=lane,
            secrets=tuple(
                SealedSecret(
                    key_id=key_id,
                    sealed=self.seal(value, sealed_for or endpoint, key_id),
                    not_before=not_before,
                    not_after=not_after,
                )
                for key_id, value, not_before, not_after in secrets
            ),
            version=version,
        )
        self.apply(configured)

    def seal(self, value: str, endpoint: str, key_id: str) -> str:
        place = endpoint_secret_place(TENANT, endpoint, key_id)
        return base64.b64encode(self.keyring.seal(value, place)).decode()

    def apply(self, configured: EndpointConfigured) -> None:
        envelope = Envelope(id="1", source="test", type=configured.TYPE, data=encode(configured))
        self.endpoints.apply(configured.endpoint, envelope)

    async def deliver(self, signer: Signer, fixture: Fixture) -> Reply:
        """Send a provider's own fixture, signed now."""
        return await self.post(signer.endpoint, fixture.body, signer.headers(fixture.body, fixture))

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
        then: str = "end",
    ) -> Reply:
        """Run one request; after the chunks the body ends, the sender leaves (`leave`) or falls silent (`stall`)."""
        sent: list[dict[str, Any]] = []
        read = 0

        async def receive() -> dict[str, Any]:
            nonlocal read
            if read < len(chunks):
                read += 1
                more = read < len(chunks) or then != "end"
                return {"type": "http.request", "body": chunks[read - 1], "more_body": more}
            if then == "stall":
                await asyncio.get_running_loop().create_future()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": f"/hooks/{endpoint}",
            "query_string": b"",
            "headers": list(headers),
        }
        await self.app(scope, receive, send)
        if not sent:
            return Reply(0, {}, b"", read)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, sent[1]["body"], read)

    @property
    def accepted(self) -> list[Record]:
        """Records of accepted events."""
        return [record for record in self.publisher.records if record.topic != GATEWAY_REJECTIONS.name]

    @property
    def rejected(self) -> list[DeliveryRejected]:
        """Rejection records."""
        found = [record for record in self.publisher.records if record.topic == GATEWAY_REJECTIONS.name]
        return [decode(DeliveryRejected, record.envelope.data) for record in found]


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    return Keyring({1: b"\x01" * 32}, 1)


@pytest.fixture(scope="session")
def make_bench(keyring: Keyring) -> Callable[..., Bench]:
    return lambda **knobs: Bench(keyring, **knobs)


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)
