"""`make bench-outbound`: commands through the outbound path, beside bare pooled calls in the same run.

Everything is real but the provider: Kafka, PostgreSQL with fsync on, Redis, the sync worker as a process, and as
another one `bench.peer`, which gives the sandbox's answer after 20 ms at a fraction of its CPU (`--sandbox` takes the
sandbox). A command is reserved, sent, applied and answered; a bare call is only sent, to the same peer, by one
`httpx.AsyncClient` with a pool ("bare, pooled"), and by a client for each connection, which spares httpcore's search of
the pool ("bare").
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from bench.processes import Server, process, ready
from chassis.http.auth import Role
from chassis.kafka.producer import Publisher
from chassis.kafka.rows import Row, row
from chassis.testing.harness import rows
from chassis.testing.kafka import PrivateKafka
from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.postgres import PrivatePostgres
from chassis.testing.redis import PrivateRedis
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, produce, write_keyring
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.events.orchestrator import RunOperation
from contracts.ids import effect_key
from contracts.topics import HEALTH_QUOTAS, ORCHESTRATOR_COMMANDS, TOPICS, Lane
from providers import registry
from providers.fixtures import api_cases
from providers.outbound_conformance import NOW

PROVIDER, OPERATION = "pagerduty", "alert.trigger"
TENANT = "bench"
LATENCY_MS = 20
CONCURRENCY = 64
# Of a command's time in a worker only a part is its call; the rest waits for commits that it shares.
EXECUTORS = 200
ROUNDS = 3


@dataclass(frozen=True)
class World:
    """Addresses of one run."""

    kafka: str
    dsn: str
    worker: Server
    peer: Server
    provider: str
    simulated: bool
    api: httpx.AsyncClient


@asynccontextmanager
async def world(executors: int, *, sandbox: bool = False) -> AsyncIterator[World]:
    """Start the servers, the peer and one sync worker."""
    with (
        tempfile.TemporaryDirectory(prefix="patchbay-bench-") as name,
        PrivateKafka(Path(name) / "kafka", under_load=True) as kafka,
        PrivatePostgres(Path(name) / "postgres", durable=True) as postgres,
        PrivateRedis(Path(name) / "redis") as redis,
    ):
        folder = Path(name)
        issuer = LocalIssuer(folder)
        await declared_topics(kafka.bootstrap, *TOPICS)
        dsn = await migrated_dsn(postgres.admin, "sync_worker")
        ports = {"peer": free_port(), "worker": free_port()}
        peer_env = {"PATCHBAY_HTTP_PORT": str(ports["peer"]), "PATCHBAY_HTTP_HOST": LOOPBACK}
        provider = f"http://{LOOPBACK}:{ports['peer']}"
        lean = ["bench.peer", str(ports["peer"]), str(LATENCY_MS / 1000)]
        worker_env = {
            "PATCHBAY_HTTP_PORT": str(ports["worker"]),
            "PATCHBAY_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "PATCHBAY_DATABASE_URL": dsn,
            "PATCHBAY_REDIS_URL": redis.url,
            "PATCHBAY_KEYRING": str(write_keyring(folder)),
            "PATCHBAY_JWKS": str(issuer.jwks),
            "PATCHBAY_JWT_ISSUER": str(issuer.settings()["jwt_issuer"]),
            "PATCHBAY_PUBLIC_GATEWAY_URL": "https://gateway.bench.test",
            "PATCHBAY_PROVIDER_BASE_URL_OVERRIDE": provider,
            "PATCHBAY_EXECUTORS": str(executors),
            "PATCHBAY_TRACE_SAMPLE_RATIO": "0.001",
            "PATCHBAY_TRACE_FILE": str(folder / "traces.jsonl"),
            "PATCHBAY_LOG_LEVEL": "ERROR",
        }
        with process([sys.executable, "-m", *(["sandbox"] if sandbox else lean)], peer_env, folder / "peer.log") as one:
            await ready(f"{provider}/ready", one, (200, 202))
            with process([sys.executable, "-m", "sync_worker"], worker_env, folder / "worker.log") as two:
                url = f"http://{LOOPBACK}:{ports['worker']}"
                await ready(f"{url}/ready", two)
                async with httpx.AsyncClient(base_url=url, headers=issuer.headers(Role.OPERATOR), timeout=30) as api:
                    worker, peer = Server(two, ports["worker"]), Server(one, ports["peer"])
                    yield World(kafka.bootstrap, dsn, worker, peer, provider, sandbox, api)


async def prepared(servers: World) -> uuid.UUID:
    """Connect an account, lift the published limit out of the way, and let the provider answer after 20 ms."""
    manifest = registry.get(PROVIDER).manifest
    secrets = {name: f"bench-{name}" for name, spec in manifest.secrets.items() if spec.required or "api" in spec.use}
    body = {"provider": PROVIDER, "tenant": TENANT, "account_ref": "bench", "secrets": secrets}
    made = await servers.api.post("/v1/connections", json=body)
    made.raise_for_status()
    policy = QuotaPolicy(
        provider=PROVIDER,
        bucket="account",
        windows=(QuotaWindow(limit=100_000, seconds=1, burst=100_000),),
        source="configured",
        version=2,
        decided_at=NOW,
    )
    await produce(servers.kafka, HEALTH_QUOTAS, f"{PROVIDER}:account", policy)
    if not servers.simulated:
        return uuid.UUID(made.json()["id"])
    async with httpx.AsyncClient() as client:
        fault = {"mode": "latency", "latency_ms": LATENCY_MS}
        (await client.put(f"{servers.provider}/_control/faults/{PROVIDER}", json=fault)).raise_for_status()
    return uuid.UUID(made.json()["id"])


def command(connection: uuid.UUID) -> Row:
    """Return a new command as a record."""
    saga = uuid.uuid4()
    key = effect_key(str(saga), "step", "do")
    run = RunOperation(
        saga_id=saga,
        step="step",
        effect_key=key,
        attempt=1,
        tenant=TENANT,
        operation=OPERATION,
        connection=connection,
        arguments={"alias": key[:24], "title": "bench"},
    )
    envelope = Envelope(key, "patchbay/bench", run.TYPE, encode(run))
    topic = ORCHESTRATOR_COMMANDS[Lane.STANDARD].name
    return row(topic, f"{saga}:step".encode(), envelope.data, envelope.headers())


@dataclass(frozen=True)
class Figures:
    """One measurement: calls a second, and CPU seconds a call of the caller and of the peer."""

    per_s: float
    cpu_s: float
    peer_s: float

    def line(self, name: str) -> str:
        """Return what is printed."""
        caller, peer = self.cpu_s * 1e6, self.peer_s * 1e6
        return f"{name:<13} {self.per_s:7,.0f}/s  {caller:6,.0f} µs CPU each (and the peer {peer:,.0f})"


async def commands(servers: World, connection: uuid.UUID, count: int) -> Figures:
    """Send commands and wait until all are applied."""
    publisher = Publisher(servers.kafka)
    await publisher.start()
    before = (await rows(servers.dsn, "SELECT count(*) FROM effects"))[0][0]
    made = [command(connection) for _ in range(count)]
    cpu, peer, start = servers.worker.cpu_s(), servers.peer.cpu_s(), datetime.now(UTC)
    for offset in range(0, count, 1000):
        await publisher.send_rows(made[offset : offset + 1000])
    while True:
        # The last one says itself when it was settled; asking often would take CPU from what is measured.
        await asyncio.sleep(0.5)
        done, last = (await rows(servers.dsn, "SELECT count(*), max(updated_at) FROM effects WHERE state = 'applied'"))[
            0
        ]
        if done >= before + count:
            break
    seconds = (last - start).total_seconds()
    await publisher.stop()
    return Figures(count / seconds, (servers.worker.cpu_s() - cpu) / count, (servers.peer.cpu_s() - peer) / count)


async def bare(servers: World, count: int, *, pooled: bool) -> Figures:
    """Make calls in a process of their own."""
    peer = servers.peer.cpu_s()
    more = ["--pooled"] if pooled else []
    here = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.outbound", "--bare", servers.provider, "--commands", str(count), *more),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await here.communicate()
    per_s, cpu = output.split()
    return Figures(float(per_s), float(cpu), (servers.peer.cpu_s() - peer) / count)


async def bare_calls(provider: str, count: int, *, pooled: bool) -> None:
    """Make `count` calls and print the rate and the CPU of each."""
    case = next(one for one in api_cases(registry.get(PROVIDER).folder) if one.operation_name == OPERATION)
    request = registry.get(PROVIDER).authorise(
        registry.get(PROVIDER).operations(OPERATION).build(case.arguments, case.account), case.account, NOW
    )
    most = CONCURRENCY if pooled else 1
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    left = count
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(base_url=f"{provider}/{PROVIDER}", limits=limits))
            for _ in range(1 if pooled else CONCURRENCY)
        ]

        async def work(client: httpx.AsyncClient) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                answer = await client.request(request.method, request.path, json=request.json)
                answer.raise_for_status()

        cpu, start = time.process_time(), time.perf_counter()
        await asyncio.gather(*(work(clients[number % len(clients)]) for number in range(CONCURRENCY)))
        seconds = time.perf_counter() - start
        print(count / seconds, (time.process_time() - cpu) / count)


async def run(count: int, *, sandbox: bool) -> None:
    """Print the figures of some rounds and their medians."""
    async with world(EXECUTORS, sandbox=sandbox) as servers:
        connection = await prepared(servers)
        await commands(servers, connection, 500)
        found: dict[str, list[Figures]] = {"bare, pooled": [], "bare": [], "commands": []}
        for number in range(ROUNDS):
            found["bare, pooled"].append(await bare(servers, max(count // 4, 250), pooled=True))
            found["bare"].append(await bare(servers, max(count // 2, 500), pooled=False))
            found["commands"].append(await commands(servers, connection, count))
            for name, measured in found.items():
                print(f"round {number + 1}: {measured[-1].line(name)}", flush=True)
        medians = {
            name: Figures(*(statistics.median(getattr(one, part) for one in all_) for part in Figures.__annotations__))
            for name, all_ in found.items()
        }
        for name, one in medians.items():
            print(f"median: {one.line(name)}")
        for name in ("bare, pooled", "bare"):
            more = (medians["commands"].cpu_s - medians[name].cpu_s) * 1e6
            print(f"a command takes {more:,.0f} µs CPU more than a call that is {name} (bar: 400)")
        print(f"commands a second: {medians['commands'].per_s:,.0f} (bar: 1,500; load {os.getloadavg()[0]:.1f})")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=5_000)
    parser.add_argument("--sandbox", action="store_true", help="call the sandbox instead of the lean peer")
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    parser.add_argument("--pooled", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        asyncio.run(bare_calls(given.bare, given.commands, pooled=given.pooled))
    else:
        asyncio.run(run(given.commands, sandbox=given.sandbox))


if __name__ == "__main__":
    main()
