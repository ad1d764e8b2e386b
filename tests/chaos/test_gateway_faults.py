"""The fault table of the gateway (gateway.md §5) under load, with every set compared both ways.

Providers send 200,000 events, each until it is acknowledged, while Redis, the broker, the ledger's database and the
gateway itself are stopped, killed and restarted, and while impatient and half-closed clients get in between. What was
acknowledged, what the ledger holds and what took effect must be the same events, each once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bench.gateway.load import Outcome, Plan, Request, run_in_process
from chassis.testing.harness import rows, until
from chassis.testing.processes import PrivateServer
from providers import registry
from providers.sdk import InboundRequest
from tests.chaos.test_no_loss import SECRET, SLUG, connect
from tests.conftest import Platform

pytestmark = [pytest.mark.asyncio, pytest.mark.chaos, pytest.mark.timeout(1500)]

# `make chaos` sends a million.
DELIVERIES = int(os.environ.get("PATCHBAY_CHAOS_DELIVERIES", "200000"))
CHUNKS = 10
CONNECTIONS = 64
EFFECTS_PATIENCE_S = 300.0

Fault = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Target:
    """Where a tenant's provider sends to."""

    tenant: str
    url: str

    @property
    def payment(self) -> str:
        """The beginning of the tenant's payment ids."""
        return f"pi_{self.tenant.replace('-', '')}"

    def event(self, number: int) -> str:
        """Return the id of an event; each is about a payment of its own, so that each has one effect."""
        return f"evt_{self.tenant}_{number:07d}"

    def request(self, number: int) -> InboundRequest:
        """Return an event signed now."""
        body: dict[str, Any] = {
            "id": self.event(number),
            "object": "event",
            "type": "payment_intent.succeeded",
            "created": 1_760_000_000,
            "data": {
                "object": {
                    "id": f"{self.payment}{number:07d}",
                    "object": "payment_intent",
                    "amount": 1000,
                    "amount_received": 1000,
                    "currency": "eur",
                    "status": "succeeded",
                }
            },
        }
        draft = InboundRequest("POST", self.url, {"content-type": ["application/json"]}, json.dumps(body).encode())
        return registry.get(SLUG).sign(draft, secret=SECRET, now=datetime.now(UTC))

    def raw(self, number: int) -> bytes:
        """Return an event as the bytes of an HTTP request."""
        request, where = self.request(number), urlsplit(self.url)
        lines = [f"POST {where.path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {len(request.body)}"]
        lines += [f"{name}: {values[0]}" for name, values in request.headers.items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


class Faults:
    """What goes wrong, one thing per chunk of deliveries."""

    def __init__(self, platform: Platform, target: Target) -> None:
        self._stack = platform.stack
        self._target = target
        self._where = urlsplit(target.url)

    def table(self) -> list[Fault]:
        """Return the faults in order; a chunk without one shows that the platform is well again."""
        return [
            self.impatient_clients,
            self.redis_killed,
            self.broker_stopped_for_five_seconds,
            self.broker_killed,
            self.gateway_killed,
            self.ledger_database_away,
            self.gateway_replaced,
            self.half_closed_clients,
            self.redis_slow,
            self.nothing,
        ]

    async def nothing(self) -> None:
        """Leave everything alone."""

    async def redis_killed(self) -> None:
        await asyncio.to_thread(self._stack.redis.kill)
        await asyncio.sleep(2)  # lint-skip: PB011 the length of the outage
        await asyncio.to_thread(self._stack.redis.start)

    async def redis_slow(self) -> None:
        await self._frozen(self._stack.redis, 2)

    async def broker_stopped_for_five_seconds(self) -> None:
        await self._frozen(self._stack.kafka, 5)

    async def broker_killed(self) -> None:
        await asyncio.to_thread(self._stack.kafka.kill)
        await asyncio.to_thread(self._stack.kafka.start)

    async def ledger_database_away(self) -> None:
        await asyncio.to_thread(self._stack.postgres.kill)
        await asyncio.to_thread(self._stack.postgres.start)

    async def gateway_killed(self) -> None:
        await asyncio.to_thread(self._stack.kill, "gateway")
        await asyncio.to_thread(self._stack.start, "gateway")

    async def gateway_replaced(self) -> None:
        await asyncio.to_thread(self._stack.restart, "gateway")

    async def impatient_clients(self) -> None:
        """Senders that give up at once and repeat: the usual source of duplicates."""
        async with httpx.AsyncClient(timeout=0.002) as client:
            for number in range(500):
                request = self._target.request(number)
                headers = {name: values[0] for name, values in request.headers.items()}
                try:
                    await client.post(self._target.url, content=request.body, headers=headers)
                except httpx.TransportError:
                    continue

    async def half_closed_clients(self) -> None:
        """Senders that close their half after the request, or the whole connection inside of it."""
        host, port = self._where.hostname or "", self._where.port or 80
        for number in range(500):
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError:
                continue
            raw = self._target.raw(number)
            writer.write(raw if number % 2 else raw[: len(raw) // 2])
            if number % 2:
                writer.write_eof()
                await asyncio.wait_for(reader.read(100), 30)
            writer.transport.abort()

    @staticmethod
    async def _frozen(server: PrivateServer, seconds: float) -> None:
        assert server.process is not None
        server.process.ref.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)  # lint-skip: PB011 the length of the outage
        finally:
            server.process.ref.signal(signal.SIGCONT)


async def send_until_acknowledged(target: Target, numbers: list[int], folder: Path) -> Counter[int]:
    """Send events until each got a 200; returns the answers that were no yes: 503, or 0 for a broken connection."""
    where, repeats = urlsplit(target.url), Counter[int]()
    while numbers:
        requests = await asyncio.to_thread(_requests, target, numbers)
        plan = Plan(where.hostname or "", where.port or 80, CONNECTIONS, 0, requests)
        try:
            outcome: Outcome = await run_in_process(plan, folder)
        except RuntimeError:
            # The gateway was away when the connections were made.
            repeats[0] += CONNECTIONS
            await asyncio.sleep(0.5)  # lint-skip: PB011 a provider waits before it sends again
            continue
        answers = {index: status for index, status, _ in outcome.answered}
        assert set(answers.values()) <= {200, 503, 0}, set(answers.values())
        numbers = [number for index, number in enumerate(numbers) if answers.get(index) != 200]
        repeats.update(status for status in answers.values() if status != 200)
    return repeats


def _requests(target: Target, numbers: list[int]) -> list[Request]:
    return [Request(target.raw(number), "event") for number in numbers]


@asynccontextmanager
async def during(fault: Fault) -> AsyncIterator[None]:
    """Let something go wrong while the block runs, a moment after its beginning."""

    async def strike() -> None:
        await asyncio.sleep(1)  # lint-skip: PB011 load comes first
        await fault()

    striking = asyncio.create_task(strike())
    try:
        yield
    finally:
        await striking


async def test_what_was_acknowledged_is_stored_and_took_effect_once_whatever_fails(
    platform: Platform, tmp_path: Path
) -> None:
    tenant = f"faults-{uuid.uuid4().hex[:8]}"
    target = Target(tenant, await asyncio.to_thread(connect, platform, tenant))
    await until(lambda: _served(target), "the endpoint is served")
    each = DELIVERIES // CHUNKS
    repeats: dict[str, Counter[int]] = {}
    for chunk, fault in enumerate(Faults(platform, target).table()):
        async with during(fault):
            name = getattr(fault, "__name__", "")
            repeats[name] = await send_until_acknowledged(
                target, list(range(chunk * each, (chunk + 1) * each)), tmp_path
            )
    logging.getLogger(__name__).info("%d acknowledged; answers that were no yes: %s", DELIVERIES, repeats)
    # On one port without a load balancer, connections that were just made may end with the process that accepted them.
    assert not set(repeats["gateway_replaced"]) - {0}, "a rolling restart refuses nothing"
    assert not repeats["nothing"], "after all faults the platform takes everything at once"

    sync, ledger = platform.stack.database_url("sync-worker"), platform.stack.database_url("ledger")
    await until(lambda: _count(sync, "SELECT count(*) FROM payments WHERE tenant = $1", tenant), "every effect", 300)
    stored = "SELECT count(DISTINCT event_id) FROM deliveries WHERE tenant = $1 AND outcome = 'accepted'"
    await until(lambda: _count(ledger, stored, tenant), "every delivery in the ledger", EFFECTS_PATIENCE_S)

    sent = {target.event(number) for number in range(DELIVERIES)}
    found = await rows(ledger, "SELECT DISTINCT event_id FROM deliveries WHERE tenant = $1 AND event_id <> ''", tenant)
    assert {row["event_id"] for row in found} == sent, "the ledger has what was sent, all of it and nothing else"
    effects = await rows(sync, "SELECT external_id, version FROM payments WHERE tenant = $1", tenant)
    assert {row["external_id"] for row in effects} == {f"{target.payment}{n:07d}" for n in range(DELIVERIES)}
    assert {row["version"] for row in effects} == {1}, "a second effect"
    conflicts = await rows(ledger, "SELECT 1 FROM deliveries WHERE tenant = $1 AND outcome = 'conflict'", tenant)
    assert not conflicts


async def _served(target: Target) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.delete(target.url)).status_code == 405


async def _count(dsn: str, query: str, tenant: str) -> bool:
    (found,) = await rows(dsn, query, tenant)
    if found[0] < DELIVERIES:
        await asyncio.sleep(1)  # lint-skip: PB011 counting in a tight loop would starve the platform
        return False
    return True
