"""The ingest role whole, in this process: real sockets, a real broker, a real Redis, endpoints through their topic."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from chassis.kafka.producer import Publisher
from chassis.sealing import Keyring
from chassis.testing.harness import read_topic, until
from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.service_kit import LocalIssuer, declared_topics, produce, running, write_keyring
from contracts.codec import decode
from contracts.envelope import from_record
from contracts.events.gateway import DeliveryAttributes, DeliveryRejected
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.topics import GATEWAY_EVENTS, GATEWAY_QUARANTINE, GATEWAY_REJECTIONS, SYNC_ENDPOINTS, TOPICS
from providers.conformance import fixtures_for, variants
from providers.fixtures import Fixture
from providers.provider import Provider
from providers.sdk import InboundRequest
from webhook_gateway.app import create
from webhook_gateway.settings import Settings


@dataclass(frozen=True)
class Sender:
    """An endpoint that a running gateway serves, and the provider's half of its secret."""

    provider: Provider
    endpoint: str
    secret: str
    options: dict[str, str]
    address: str

    @property
    def fixture(self) -> Fixture:
        """The fixture that these options allow."""
        return fixtures_for(self.provider, self.options)[0]

    def signed(self, body: bytes | None = None, fixture: Fixture | None = None) -> InboundRequest:
        """Return a delivery signed now."""
        shown = fixture or self.fixture
        draft = shown.request({}, self.address)
        return self.provider.sign(
            draft if body is None else replace(draft, body=body),
            secret=self.secret,
            now=datetime.now(UTC),
            message_id=shown.message_id,
            options=self.options,
        )

    def raw(self, body: bytes | None = None) -> bytes:
        """Return a signed delivery as the bytes of an HTTP request."""
        request = self.signed(body)
        lines = [f"POST /hooks/{self.endpoint} HTTP/1.1", "Host: gateway.test", f"Content-Length: {len(request.body)}"]
        lines += [f"{name}: {value}" for name, values in request.headers.items() for value in values]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + request.body


class Live:
    """A running gateway."""

    def __init__(self, bootstrap: str, keyring: Path, url: str, client: httpx.AsyncClient) -> None:
        self.bootstrap = bootstrap
        self.url = url
        self.client = client
        self.port = int(url.rpartition(":")[2])
        self._keyring = keyring

    async def connect(self, provider: Provider, **settings: Any) -> Sender:
        """Configure an endpoint and return once the gateway serves it."""
        options = variants(provider)[0]
        pair = provider.verifier(options).generate()
        endpoint = f"ep-{uuid.uuid4().hex}"
        address = f"https://hooks.example.com/hooks/{endpoint}"
        sealed = Keyring.load(self._keyring).seal(pair.verifying, endpoint_secret_place("t1", endpoint, "k1"))
        record: dict[str, Any] = {
            "endpoint": endpoint,
            "connection": uuid.uuid4(),
            "provider": provider.slug,
            "tenant": "t1",
            "url": address,
            "secrets": (SealedSecret(key_id="k1", sealed=base64.b64encode(sealed).decode()),),
            "options": options,
            "version": 1,
        }
        await produce(self.bootstrap, SYNC_ENDPOINTS, endpoint, EndpointConfigured(**(record | settings)))

        async def served() -> bool:
            return (await self.client.delete(f"{self.url}/hooks/{endpoint}")).status_code == 405

        await until(served, "the endpoint is served")
        return Sender(provider, endpoint, pair.signing, options, address)

    async def remove(self, sender: Sender) -> None:
        """Remove an endpoint and return once it answers 404."""
        publisher = Publisher(self.bootstrap)
        await publisher.start()
        await publisher.send(SYNC_ENDPOINTS.name, sender.endpoint.encode(), None, [], timeout_s=10)
        await publisher.stop()

        async def gone() -> bool:
            return (await self.client.post(f"{self.url}/hooks/{sender.endpoint}", content=b"{}")).status_code == 404

        await until(gone, "the removed endpoint answers 404")

    async def deliver(self, sender: Sender, request: InboundRequest | None = None, **headers: str) -> httpx.Response:
        """Send a delivery over HTTP."""
        given = request or sender.signed()
        pairs = [(name, value) for name, values in given.headers.items() for value in values]
        return await self.client.request(
            given.method,
            f"{self.url}/hooks/{sender.endpoint}",
            content=given.body,
            headers=[*pairs, *headers.items()],
            params=given.query_string or None,
        )

    async def exchange(self, raw: bytes, patience_s: float = 5.0) -> bytes:
        """Send bytes on a connection of their own and return what comes back until it is closed or silent."""
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        answer = b""
        try:
            writer.write(raw)
            while True:
                piece = await asyncio.wait_for(reader.read(65_536), patience_s)
                answer += piece
                if not piece or b"\r\n\r\n" in answer:
                    return answer
        except (TimeoutError, ConnectionError):
            return answer
        finally:
            writer.transport.abort()

    async def accepted(self, sender: Sender) -> list[tuple[DeliveryAttributes, bytes]]:
        """Return what an endpoint's deliveries became on the lanes and in quarantine."""
        found: list[tuple[DeliveryAttributes, bytes]] = []
        for topic in (*GATEWAY_EVENTS.values(), GATEWAY_QUARANTINE):
            for record in await read_topic(self.bootstrap, topic.name):
                attributes = DeliveryAttributes.of(from_record(record.value, record.headers))
                if attributes.endpoint == sender.endpoint:
                    found.append((attributes, record.value or b""))
        return found

    async def rejected(self, sender: Sender) -> list[DeliveryRejected]:
        """Return the rejection records of an endpoint."""
        records = await read_topic(self.bootstrap, GATEWAY_REJECTIONS.name)
        envelopes = [from_record(r.value, r.headers) for r in records if r.key == sender.endpoint.encode()]
        return [decode(DeliveryRejected, e.data) for e in envelopes if e.type == DeliveryRejected.TYPE]


class Start(Protocol):
    """Starts a gateway with other settings than the usual ones."""

    def __call__(self, **settings: Any) -> AbstractAsyncContextManager[Live]:
        """Give it while the block runs."""
        ...


@pytest.fixture
def gateway(kafka_bootstrap: str, redis_url: str, issuer: LocalIssuer, tmp_path: Path) -> Start:
    """Give the function that runs a gateway."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[Live]:
        await declared_topics(kafka_bootstrap, *TOPICS)
        keyring = write_keyring(tmp_path)
        usual: dict[str, Any] = {
            **issuer.settings(),
            "kafka_bootstrap": kafka_bootstrap,
            "redis_url": redis_url,
            "http_port": free_port(),
            "role": "ingest",
            "keyring": keyring,
            "claim_dir": tmp_path / "claims",
        }
        async with running(create(Settings(**(usual | settings)))) as url, httpx.AsyncClient() as client:
            yield Live(kafka_bootstrap, keyring, url, client)

    return start
