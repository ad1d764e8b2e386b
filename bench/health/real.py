"""Propagation, and one whole outage, in real time on a private Redis, Kafka and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from bench.health.calls import CAPABILITY, run_of
from chassis.clock import SystemClock
from chassis.kafka.producer import Publisher
from chassis.mirror import Mirrored, MirrorOwner, MirrorSubscriber
from chassis.redis import connect
from chassis.testing.kafka import PrivateKafka
from chassis.testing.ports import free_port
from chassis.testing.postgres import PrivatePostgres
from chassis.testing.redis import PrivateRedis
from chassis.testing.service_kit import LocalIssuer, declared_topics, migrated_dsn, running
from contracts.codec import encode
from contracts.envelope import Envelope
from contracts.events.sync import CallsObserved, Outcome
from contracts.ids import uuid7
from contracts.modes import calls_key
from contracts.topics import HEALTH_QUOTAS, HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_CALLS, SYNC_QUOTA_USAGE
from health_monitor.app import create
from health_monitor.settings import Settings

PROCESSES, SUBSCRIPTIONS = 4, 5
MOST_FAILURES = 100


async def follow(url: str, wanted: int) -> None:
    """Be one process of subscribers: print the latencies (ms) of all announcements once they are in."""
    latencies: list[float] = []
    done = asyncio.Event()

    def apply(record: Mirrored) -> None:
        latencies.append((time.monotonic_ns() - int(record.value)) / 1e6)
        if len(latencies) >= wanted * SUBSCRIPTIONS:
            done.set()

    clients = [connect(url) for _ in range(SUBSCRIPTIONS)]
    subscribers = [MirrorSubscriber(client, SystemClock(), apply) for client in clients]
    tasks = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    for subscriber in subscribers:
        await subscriber.loaded.wait()
    print("ready", flush=True)
    await done.wait()
    print(json.dumps(latencies), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in clients:
        await client.aclose()


async def propagation(url: str, epochs: int) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.health",
            "--follow",
            url,
            "--epochs",
            str(epochs),
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(PROCESSES)
    ]
    outputs = [process.stdout for process in processes if process.stdout is not None]
    client = connect(url)
    owner = MirrorOwner(client, SystemClock())
    try:
        for output in outputs:
            await _line(output, b"ready")
        for number in range(epochs):
            owner.put("acme", CAPABILITY, (1, number + 1), str(time.monotonic_ns()).encode())
            await owner.settle()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            lines = [await _line(output, b"[") for output in outputs]
            found = sorted(latency for line in lines for latency in json.loads(line))
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
            await process.wait()
        await client.flushdb()
        await client.aclose()
    p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
    print(
        f"\nRedis, owner to {PROCESSES} processes x {SUBSCRIPTIONS} subscribers, {epochs} epochs: "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {found[-1]:.1f} ms"
    )


async def _line(output: asyncio.StreamReader, start: bytes) -> bytes:
    """Return the next line that starts so; the others are log lines."""
    while not (line := await output.readline()).startswith(start):
        if not line:
            raise RuntimeError("a subscriber process ended early")
    return line


async def whole_outage(settings: Settings, url: str, runs: int) -> None:
    """Drive the whole service by 10 failing calls/s of two workers; the clock stops where a worker hears of it."""
    publisher = Publisher(settings.kafka_bootstrap, linger_ms=0, compression=None)
    await publisher.start()
    heard: dict[str, float] = {}

    def apply(record: Mirrored) -> None:
        if b'"state":"down"' in record.value:
            heard.setdefault(record.group, time.monotonic())

    client = connect(url)
    follower = asyncio.create_task(MirrorSubscriber(client, SystemClock(), apply).run())
    seconds, failed = [], []
    async with running(create(settings)):
        # Enough healthy providers that the panic guard has no reason to hold one back.
        for number in range(2 * runs):
            await _report(publisher, f"healthy{number}", "success", number)
        for _ in range(runs):
            provider = f"p{uuid.uuid4().hex[:8]}"
            for number in range(30):
                await _report(publisher, provider, "success", number)
            await asyncio.sleep(0.5)
            started, number = time.monotonic(), 0
            while provider not in heard and number < MOST_FAILURES:
                await _report(publisher, provider, "server_error", number)
                number += 1
                await asyncio.sleep(0.1)
            seconds.append(heard.get(provider, float("inf")) - started)
            failed.append(number)
    follower.cancel()
    await asyncio.gather(follower, return_exceptions=True)
    await client.aclose()
    await publisher.stop()
    print(
        f"Whole service (Kafka, decision, Redis), 5xx at 10 calls/s, no probes, {runs} runs: "
        f"heard after p50 {statistics.median(seconds):.2f} s, max {max(seconds):.2f} s; "
        f"failed calls p50 {statistics.median(failed):g}, max {max(failed)}"
    )


async def _report(publisher: Publisher, provider: str, outcome: Outcome, number: int) -> None:
    observed = CallsObserved(
        worker=f"w{number % 2}",
        provider=provider,
        capability=CAPABILITY,
        observed_at=datetime.now(UTC),
        runs=(run_of(outcome, number),),
    )
    envelope = Envelope(id=str(uuid7()), source="bench", type=CallsObserved.TYPE, data=encode(observed))
    await publisher.publish(SYNC_CALLS, calls_key(provider, CAPABILITY, "live"), envelope)


async def real(epochs: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-health-") as folder:
        place = Path(folder)
        with PrivateRedis(place / "redis") as redis:
            await propagation(redis.url, epochs)
            with PrivateKafka(place / "kafka") as kafka, PrivatePostgres(place / "postgres") as postgres:
                topics = (SYNC_CALLS, HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_QUOTA_USAGE, HEALTH_QUOTAS)
                await declared_topics(kafka.bootstrap, *topics)
                settings = Settings(
                    **LocalIssuer(place).settings(),
                    kafka_bootstrap=kafka.bootstrap,
                    redis_url=SecretStr(redis.url),
                    http_port=free_port(),
                    database_url=SecretStr(await migrated_dsn(postgres.admin, "health_monitor")),
                    log_level="ERROR",
                )
                await whole_outage(settings, redis.url, runs)
