"""What the gateway's benches run against: a real broker and Redis, the gateway and the bare handler as processes."""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.gateway.load import Outcome, Plan, run_in_process
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
READY_PATIENCE_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """An endpoint to send to: where, what it signs with, and its whole URL as registered."""

    provider: str
    endpoint: str
    url: str
    keys: KeyPair
    options: dict[str, str]


class Server:
    """A server process under test."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_bytes(self) -> int:
        """Return the resident memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()


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
        with _process(command, environment, self.folder / f"gateway-{port}.log") as process:
            await _ready(f"http://{LOOPBACK}:{port}/ready", process)
            yield Server(process, port)

    @asynccontextmanager
    async def bare(self, topic: str, secret: str) -> AsyncIterator[Server]:
        """Run the bare handler until the block ends."""
        port = free_port()
        command = [sys.executable, "-m", "bench.gateway.bare", self.kafka.bootstrap, topic, str(port), secret]
        with _process(command, {}, self.folder / "bare.log") as process:
            await _ready(f"http://{LOOPBACK}:{port}/", process, accept=(200, 401))
            yield Server(process, port)

    async def load(self, plan: Plan) -> Outcome:
        """Run a plan in a process of its own."""
        return await run_in_process(plan, self.folder)


@contextmanager
def world() -> Iterator[World]:
    """Start the servers, create the topics, and end everything with the block."""
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name,
        PrivateKafka(Path(name) / "kafka", under_load=True) as kafka,
        PrivateRedis(Path(name) / "redis") as redis,
    ):
        yield World(Path(name), kafka, redis)


@contextmanager
def _process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _ready(url: str, process: subprocess.Popen[bytes], accept: tuple[int, ...] = (200,)) -> None:
    deadline = time.monotonic() + READY_PATIENCE_S
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
            try:
                if (await client.get(url)).status_code in accept:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} was not ready within {READY_PATIENCE_S:.0f} s")
