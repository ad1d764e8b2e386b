"""`make bench-outbound`: commands through the outbound path, beside bare pooled calls in the same run.

Everything is real: Kafka, PostgreSQL with fsync on, Redis, the sync worker as a process, and a sandbox as another that
answers after 20 ms. A command is reserved, sent, applied and answered; a bare call is only sent. Both go to the same
operation of the same simulated provider.
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
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
ROUNDS = 3


@dataclass(frozen=True)
class World:
    """Addresses of one run."""

    kafka: str
    dsn: str
    worker: Server
    sandbox: str
    api: httpx.AsyncClient


@asynccontextmanager
async def world(executors: int) -> AsyncIterator[World]:
    """Start the servers, the sandbox and one sync worker."""
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
        ports = {"sandbox": free_port(), "worker": free_port()}
        sandbox_env = {"PATCHBAY_HTTP_PORT": str(ports["sandbox"]), "PATCHBAY_HTTP_HOST": LOOPBACK}
        sandbox = f"http://{LOOPBACK}:{ports['sandbox']}"
        worker_env = {
            "PATCHBAY_HTTP_PORT": str(ports["worker"]),
            "PATCHBAY_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "PATCHBAY_DATABASE_URL": dsn,
            "PATCHBAY_REDIS_URL": redis.url,
            "PATCHBAY_KEYRING": str(write_keyring(folder)),
            "PATCHBAY_JWKS": str(issuer.jwks),
            "PATCHBAY_JWT_ISSUER": str(issuer.settings()["jwt_issuer"]),
            "PATCHBAY_PUBLIC_GATEWAY_URL": "https://gateway.bench.test",
            "PATCHBAY_PROVIDER_BASE_URL_OVERRIDE": sandbox,
            "PATCHBAY_EXECUTORS": str(executors),
            "PATCHBAY_TRACE_SAMPLE_RATIO": "0.001",
            "PATCHBAY_TRACE_FILE": str(folder / "traces.jsonl"),
            "PATCHBAY_LOG_LEVEL": "ERROR",
        }
        with process([sys.executable, "-m", "sandbox"], sandbox_env, folder / "sandbox.log") as one:
            await ready(f"{sandbox}/ready", one)
            with process([sys.executable, "-m", "sync_worker"], worker_env, folder / "worker.log") as two:
                url = f"http://{LOOPBACK}:{ports['worker']}"
                await ready(f"{url}/ready", two)
                async with httpx.AsyncClient(base_url=url, headers=issuer.headers(Role.OPERATOR), timeout=30) as api:
                    yield World(kafka.bootstrap, dsn, Server(two, ports["worker"]), sandbox, api)


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
    async with httpx.AsyncClient() as client:
        fault = {"mode": "latency", "latency_ms": LATENCY_MS}
        (await client.put(f"{servers.sandbox}/_control/faults/{PROVIDER}", json=fault)).raise_for_status()
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


async def commands(servers: World, connection: uuid.UUID, count: int) -> tuple[float, float]:
    """Return commands per second until all are applied, and CPU seconds of the worker for each."""
    publisher = Publisher(servers.kafka)
    await publisher.start()
    before = (await rows(servers.dsn, "SELECT count(*) FROM effects"))[0][0]
    cpu, start = servers.worker.cpu_s(), time.perf_counter()
    for offset in range(0, count, 1000):
        await publisher.send_rows([command(connection) for _ in range(min(1000, count - offset))])
    while True:
        done = (await rows(servers.dsn, "SELECT count(*) FROM effects WHERE state = 'applied'"))[0][0]
        if done >= before + count:
            break
        await asyncio.sleep(0.05)
    seconds = time.perf_counter() - start
    await publisher.stop()
    return count / seconds, (servers.worker.cpu_s() - cpu) / count


async def bare(servers: World, count: int) -> tuple[float, float]:
    """Return calls per second of one pooled client in a process of its own, and its CPU seconds for each."""
    here = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.outbound", "--bare", servers.sandbox, "--commands", str(count)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await here.communicate()
    per_s, cpu = output.split()
    return float(per_s), float(cpu)


async def bare_calls(sandbox: str, count: int) -> None:
    """Make `count` calls and print the rate and the CPU of each."""
    case = next(one for one in api_cases(registry.get(PROVIDER).folder) if one.operation_name == OPERATION)
    request = registry.get(PROVIDER).authorise(
        registry.get(PROVIDER).operations(OPERATION).build(case.arguments, case.account), case.account, NOW
    )
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    left = count
    async with httpx.AsyncClient(base_url=f"{sandbox}/{PROVIDER}", limits=limits) as client:

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                answer = await client.request(request.method, request.path, json=request.json)
                answer.raise_for_status()

        cpu, start = time.process_time(), time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        seconds = time.perf_counter() - start
        print(count / seconds, (time.process_time() - cpu) / count)


async def run(count: int) -> None:
    """Print the figures of some rounds and their medians."""
    async with world(CONCURRENCY) as servers:
        connection = await prepared(servers)
        await commands(servers, connection, 500)
        figures: dict[str, list[tuple[float, float]]] = {"bare calls": [], "commands": []}
        for number in range(ROUNDS):
            figures["bare calls"].append(await bare(servers, count))
            figures["commands"].append(await commands(servers, connection, count))
            for name, measured in figures.items():
                per_s, cpu = measured[-1]
                print(f"round {number + 1}: {name:<10} {per_s:8,.0f}/s  {cpu * 1e6:6.0f} µs CPU each", flush=True)
        medians = {name: [statistics.median(one) for one in zip(*all_, strict=True)] for name, all_ in figures.items()}
        for name, (per_s, cpu) in medians.items():
            print(f"median: {name:<10} {per_s:8,.0f}/s  {cpu * 1e6:6.0f} µs CPU each")
        overhead = (medians["commands"][1] - medians["bare calls"][1]) * 1e6
        print(f"overhead of the path: {overhead:,.0f} µs CPU a command  (load {os.getloadavg()[0]:.1f})")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=5_000)
    parser.add_argument("--bare", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    asyncio.run(bare_calls(given.bare, given.commands) if given.bare else run(given.commands))


if __name__ == "__main__":
    main()
