"""A replica of the health monitor without a broker: records go in by hand, time by the clock; the database is real."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.http.auth import Role
from chassis.kafka.loop import Partition
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.service_kit import LocalIssuer, api_client, service_database
from contracts.codec import decode, encode
from contracts.envelope import Envelope
from contracts.events.health import RouteChanged
from contracts.events.platform import AuditRecorded
from contracts.events.sync import ApiVersionSeen, CallsObserved, Outcome
from contracts.ids import uuid7
from contracts.modes import Mode
from contracts.topics import HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_CALLS
from health_monitor.handlers import EvidenceLoop, Generations
from health_monitor.keeper import Keeper
from health_monitor.monitor import Monitor
from health_monitor.operate import Operations
from health_monitor.routes import routes
from health_monitor.timers import Wishes
from health_monitor_support.calls import one_call

START = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def issuer(tmp_path: Path) -> LocalIssuer:
    return LocalIssuer(tmp_path)


@pytest_asyncio.fixture
async def database(postgres_server: PostgresAdmin) -> AsyncIterator[Database]:
    async with service_database(postgres_server, "health_monitor") as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@dataclass
class Record:
    """A record as the broker hands it over."""

    offset: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    topic: str = SYNC_CALLS.name
    partition: int = 0
    key: bytes | None = b"key"
    timestamp: int = 0


class AllPartitions:
    """A consumer that owns the whole topic and notes its commits."""

    def __init__(self) -> None:
        self.committed: dict[Partition, int] = {}
        self.owned = {(SYNC_CALLS.name, number) for number in range(SYNC_CALLS.partitions)}

    async def commit(self, offsets: dict[Partition, int]) -> None:
        self.committed |= offsets

    def seek(self, partition: Partition, offset: int) -> None:
        raise AssertionError((partition, offset))

    def pause(self, partitions: Iterable[Partition]) -> None:
        raise AssertionError(partitions)

    resume = pause

    def assignment(self) -> set[Partition]:
        return self.owned


class Replica:
    """One process without a broker: records go in by hand, time by the clock."""

    def __init__(self, database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
        self.issuer = issuer
        self.database = database
        self.clock = clock
        self.monitor = Monitor(clock, dice=Random(1))
        self.keeper = Keeper(self.monitor, database, None, clock)
        self.wishes = Wishes(self.monitor, database)
        generations = Generations(database, self.monitor, clock)
        self.loop = EvidenceLoop(self.monitor, self.keeper, generations.next, database, clock)
        self.kafka = AllPartitions()
        self._offset = 0

    def record(self, value: bytes, kind: str = CallsObserved.TYPE) -> Record:
        self._offset += 1
        envelope = Envelope(id=str(uuid7()), source="test", type=kind, data=value)
        return Record(self._offset, value, tuple(envelope.headers()))

    async def take(self, *observed: CallsObserved, save: bool = True) -> None:
        await self.loop.handle([self.record(encode(one)) for one in observed], self.kafka)
        if save:
            await self.keeper.save()

    async def passes(self, seconds: float = 0.1) -> None:
        self.clock.advance(seconds)
        await self.wishes.read()
        self.keeper.take(self.monitor.tick())
        await self.keeper.save()

    @staticmethod
    def calls(
        *runs: tuple[Outcome, int],
        at: datetime = START,
        provider: str = "acme",
        latency_ms: float = 20,
        versions: tuple[ApiVersionSeen, ...] = (),
        mode: Mode = "live",
        **more: Any,
    ) -> CallsObserved:
        return CallsObserved(
            worker="w1",
            provider=provider,
            capability="messaging.sms",
            mode=mode,
            observed_at=at,
            versions=versions,
            runs=tuple(
                one_call(outcome, f"t{number % 2}", latency_ms=latency_ms, operation="message.send", **more)
                for outcome, count in runs
                for number in range(count)
            ),
        )

    async def outgoing(self, topic: str) -> list[bytes]:
        """Return what waits in the outbox for a topic."""
        found = await rows(self.database.dsn, "SELECT value FROM outbox WHERE topic = $1 ORDER BY id", topic)
        return [row["value"] for row in found]

    async def published(self) -> list[RouteChanged]:
        """Return the records of routes that were published."""
        return [decode(RouteChanged, value) for value in await self.outgoing(HEALTH_ROUTES.name)]

    async def audited(self) -> list[AuditRecorded]:
        """Return the audit entries."""
        return [decode(AuditRecorded, value) for value in await self.outgoing(PLATFORM_AUDIT.name)]

    def api(self, role: Role = Role.VIEWER) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Give a client of the API for kim, who has this role."""
        verifier = self.issuer.verifier()
        table = [
            *routes(self.database, verifier, self.clock),
            *Operations(self.database, verifier, self.clock, self.wishes.wake).routes(),
        ]
        return api_client(table, self.issuer.headers(role, subject="kim"))

    async def get(self, path: str) -> dict[str, Any]:
        """Return the body of a successful read."""
        async with self.api() as api:
            response = await api.get(path)
            assert response.status_code == 200, response.text
            body: dict[str, Any] = response.json()
            return body


@pytest.fixture
def make_replica(database: Database, clock: ManualClock, issuer: LocalIssuer) -> Callable[[], Replica]:
    return lambda: Replica(database, clock, issuer)


@pytest.fixture
def replica(make_replica: Callable[[], Replica]) -> Replica:
    return make_replica()
