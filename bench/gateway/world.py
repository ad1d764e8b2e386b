"""What the gateway's benches run against: a real broker and Redis, the gateway and the bare handler as processes."""

from __future__ import annotations

import base64
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.load import Outcome, Plan, run_in_process
from bench.processes import Server, process, ready
from chassis.sealing import Keyring
from chassis.testing.kafka import PrivateKafka
from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.redis import PrivateRedis
from chassis.testing.service_kit import LocalIssuer, produce, write_keyring
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.topics import SYNC_ENDPOINTS, Lane
from providers import registry
from providers.sdk import KeyPair

TENANT = "bench"


@dataclass(frozen=True)
class Target:
    """An endpoint to send to: where, what it signs with, and its whole URL as registered."""

    provider: str
    endpoint: str
    url: str
    keys: KeyPair
    options: dict[str, str]


class World:
    """Broker, Redis, keys and folders of one run."""

    def __init__(self, folder: Path, kafka: PrivateKafka, redis: PrivateRedis) -> None:
        self.folder = folder
        self.kafka = kafka
        self.redis = redis
        self.keyring = write_keyring(folder)
        self._issuer = LocalIssuer(folder)

    def target(self, provider: str) -> Target:
        """Return a new endpoint of a provider; `configure` makes the gateway know it."""
        endpoint = f"ep-{uuid.uuid4().hex[:12]}"
        shown = registry.get(provider)
        options = dict(shown.default_options)
        return Target(
            provider, endpoint, f"https://hooks.bench.test/hooks/{endpoint}", shown.verifier().generate(), options
        )

    async def configure(self, targets: Sequence[Target], *, lane: Lane = Lane.STANDARD) -> None:
        """Publish the endpoints as sync-worker does."""
        keyring = Keyring.load(self.keyring)
        for target in targets:
            place = endpoint_secret_place(TENANT, target.endpoint, "k1")
            sealed = base64.b64encode(keyring.seal(target.keys.verifying, place)).decode()
            configured = EndpointConfigured(
                endpoint=target.endpoint,
                connection=uuid.uuid4(),
                provider=target.provider,
                tenant=TENANT,
                url=target.url,
                lane=lane,
                secrets=(SealedSecret(key_id="k1", sealed=sealed),),
                options=target.options,
                version=1,
            )
            await produce(self.kafka.bootstrap, SYNC_ENDPOINTS, target.endpoint, configured)

    @asynccontextmanager
    async def gateway(self, port: int | None = None, **settings: str) -> AsyncIterator[Server]:
        """Run the whole gateway, ingest role, until the block ends; ready when it begins."""
        port = port or free_port()
        environment = {
            "PATCHBAY_HTTP_PORT": str(port),
            "PATCHBAY_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "PATCHBAY_REDIS_URL": self.redis.url,
            "PATCHBAY_KEYRING": str(self.keyring),
            "PATCHBAY_JWKS": self._issuer.jwks,
            "PATCHBAY_JWT_ISSUER": self._issuer.settings()["jwt_issuer"],
            "PATCHBAY_CLAIM_DIR": str(self.folder / "claims"),
            "PATCHBAY_TRACE_SAMPLE_RATIO": "0.001",
            "PATCHBAY_TRACE_FILE": str(self.folder / "traces.jsonl"),
            "PATCHBAY_LOG_LEVEL": "ERROR",
        }
        environment |= {f"PATCHBAY_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "webhook_gateway"]
        with process(command, environment, self.folder / f"gateway-{port}.log") as started:
            await ready(f"http://{LOOPBACK}:{port}/ready", started)
            yield Server(started, port)

    @asynccontextmanager
    async def bare(self, topic: str, secret: str) -> AsyncIterator[Server]:
        """Run the bare handler until the block ends."""
        port = free_port()
        command = [sys.executable, "-m", "bench.gateway.bare", self.kafka.bootstrap, topic, str(port), secret]
        with process(command, {}, self.folder / "bare.log") as started:
            await ready(f"http://{LOOPBACK}:{port}/", started, accept=(200, 401))
            yield Server(started, port)

    async def load(self, plan: Plan, *, niceness: int = 0) -> Outcome:
        """Run a plan in a process of its own."""
        return await run_in_process(plan, self.folder, niceness=niceness)


@contextmanager
def world() -> Iterator[World]:
    """Start the servers, create the topics, and end everything with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name,
        PrivateKafka(Path(name) / "kafka", under_load=True) as kafka,
        PrivateRedis(Path(name) / "redis") as redis,
    ):
        yield World(Path(name), kafka, redis)
