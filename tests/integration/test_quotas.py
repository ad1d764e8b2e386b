"""Quotas through both services: what real workers report, the health monitor's forecasts, and what workers do then.

The sync worker's books and reporter and the health monitor's loop are the real ones, with a real database; records go
from one to the other by hand, in the form in which they are on the broker. Services never import each other, so this
is no test of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

import pytest
import pytest_asyncio

from chassis.db.database import Database
from chassis.kafka.loop import Partition
from chassis.kafka.producer import Publisher, partition_for
from chassis.redis import Redis, connect
from chassis.telemetry.metrics import bound_gauge
from chassis.testing.clock import ManualClock
from chassis.testing.harness import rows
from chassis.testing.postgres import PostgresAdmin
from chassis.testing.publisher import Record as Sent
from chassis.testing.publisher import RecordingPublisher
from chassis.testing.service_kit import service_database
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from contracts.events.sync import Outcome
from contracts.modes import MODES, Mode
from contracts.topics import HEALTH_QUOTAS, SYNC_QUOTA_USAGE
from health_monitor.handlers import UsageLoop
from health_monitor.limits import published
from health_monitor.metrics import QUOTA_FORECAST
from health_monitor.quotas import Quotas
from health_monitor.repository.quotas import BucketKey
from providers import registry
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.policies import Bucket, PolicyBook
from sync_worker.limiter.store import QuotaStore
from sync_worker.limiter.usage import RetryBudgets, UsageBook
from sync_worker.outbound.parts import UsageReporter

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

DAY_S = 86_400
# Turns of the event loop until a reporter that woke up has handed everything to the publisher.
_TURNS = 20
# An hour before a day of UTC would make every forecast of it short.
START = datetime(2026, 3, 1, 0, 0, 30, tzinfo=UTC)
BUSY, QUIET, THIRD = (f"0190a2b4-0000-7000-8000-00000000000{number}" for number in range(3))


def account_where(fits: Callable[[Sequence[QuotaWindow]], bool]) -> tuple[str, Sequence[QuotaWindow]]:
    """Return a provider by what its manifest publishes for accounts."""
    return next(
        (key.provider, windows)
        for key, windows in sorted(published().items())
        if key.bucket == "account" and fits(windows)
    )


MINUTELY, (MINUTE,) = account_where(
    lambda known: len(known) == 1 and known[0].shape == "fixed" and known[0].seconds == 60
)
DAILY, DAILY_WINDOWS = account_where(lambda known: any(one.seconds == DAY_S for one in known))


@dataclass
class Record:
    """A record as the broker hands it over."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int = 0


class Broker:
    """A consumer that owns the whole topic."""

    async def commit(self, offsets: dict[Partition, int]) -> None:
        assert offsets

    def seek(self, partition: Partition, offset: int) -> None:
        raise AssertionError((partition, offset))

    def pause(self, partitions: Iterable[Partition]) -> None:
        raise AssertionError(partitions)

    resume = pause

    def assignment(self) -> set[Partition]:
        return {(SYNC_QUOTA_USAGE.name, number) for number in range(SYNC_QUOTA_USAGE.partitions)}


class Worker:
    """What a sync worker knows of quotas, put together as the service does it; calls are counted as made."""

    def __init__(self, name: str, redis: Redis, clock: ManualClock) -> None:
        self.clock = clock
        self.book, self.usage, self.publisher = PolicyBook(), UsageBook(clock, name), RecordingPublisher()
        for provider in registry.all_providers():
            if provider.manifest.api is not None:
                self.book.declare(provider.slug, provider.api.rate, provider.api.windows)
        retries = RetryBudgets(self.clock.monotonic)
        limiter = Limiter(QuotaStore(redis, name), clock, self.usage, retries)
        self.feedback = Feedback(limiter, self.book, self.usage, retries, clock)
        self.reporting = asyncio.create_task(UsageReporter(cast("Publisher", self.publisher), self.usage, clock).run())

    def account(self, provider: str, connection: str, mode: Mode = "live") -> Bucket:
        """Return the bucket that the calls of a connection have for themselves."""
        return next(one for one in self.book.path(provider, connection, mode=mode).buckets if one.kind == "account")

    def spends(self, provider: str, mode: Mode = "live", **bulk: float) -> None:
        for connection, units in bulk.items():
            self.usage.spent(self.book.path(provider, NAMES[connection], mode=mode), "bulk", units)

    def hears(self, provider: str, connection: str, throttled: int = 0, **headers: float) -> None:
        """Take one answer with these headers, and some more that are 429s."""
        path = self.book.path(provider, connection)
        said = {name.replace("_", "-"): f"{value:g}" for name, value in headers.items()}
        outcomes: list[Outcome] = ["throttled" if number else "success" for number in range(1 + throttled)]
        for outcome in outcomes:
            self.feedback.answered(path, outcome, said, self.clock.monotonic())


NAMES: Mapping[str, str] = {"busy": BUSY, "quiet": QUIET, "third": THIRD}


class Fleet:
    """Two workers and a health monitor. `passes` lets reports and policies through."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self.database = database
        self.clock = ManualClock(START)
        self.workers = [Worker(name, redis, self.clock) for name in ("w1", "w2")]
        self.quotas = Quotas(database, self.clock)
        self.loop = UsageLoop(self.quotas, database, self.clock)
        self.policies: list[QuotaPolicy] = []
        self._offset = 0
        self._told = 0

    async def reports(self, seconds: float = 1.0) -> list[Sent]:
        """Let time pass, and return what the workers sent then."""
        self.clock.advance(seconds)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        sent = [one for worker in self.workers for one in worker.publisher.records]
        for worker in self.workers:
            worker.publisher.records.clear()
        return sent

    async def passes(self, seconds: float = 1.0) -> None:
        sent = await self.reports(seconds)
        if sent:
            records = sorted((self._record(one.key, one.envelope) for one in sent), key=lambda one: one.partition)
            await self.loop.handle(records, Broker())
        await self.quotas.review()
        news = "SELECT id, value FROM outbox WHERE topic = $1 AND id > $2 ORDER BY id"
        async with self.database.connection() as connection:
            found = await connection.fetch(news, HEALTH_QUOTAS.name, self._told)
        for row in found:
            self._told = row["id"]
            self.policies.append(decode(QuotaPolicy, row["value"]))
            envelope = Envelope(id=str(row["id"]), source="health-monitor", type=QuotaPolicy.TYPE, data=row["value"])
            for worker in self.workers:
                worker.book.apply("", envelope)

    def newest(self, provider: str, bucket: str = "account", mode: Mode = "live") -> QuotaPolicy:
        place = (provider, bucket, mode)
        return next(one for one in reversed(self.policies) if (one.provider, one.bucket, one.mode) == place)

    def trims(self, provider: str, connection: str, mode: Mode = "live") -> dict[CallClass, float]:
        """Return what both workers take from a connection's calls."""
        one, other = (worker.account(provider, connection, mode).trim for worker in self.workers)
        assert one == other
        return one

    async def given_up(self) -> list[str]:
        """Return the topics of retries and dead letters that anything was written to."""
        found = await rows(self.database.dsn, "SELECT DISTINCT topic FROM outbox WHERE topic <> $1", HEALTH_QUOTAS.name)
        return [row["topic"] for row in found]

    def _record(self, key: str, envelope: Envelope) -> Record:
        self._offset += 1
        place = partition_for(key.encode(), SYNC_QUOTA_USAGE.partitions)
        headers = tuple(envelope.headers())
        return Record(SYNC_QUOTA_USAGE.name, place, self._offset, key.encode(), envelope.data, headers)


@pytest_asyncio.fixture
async def fleet(postgres_server: PostgresAdmin, redis_url: str) -> AsyncIterator[Fleet]:
    redis = connect(redis_url)
    async with service_database(postgres_server, "health_monitor") as database:
        made = Fleet(database, redis)
        await made.loop.assigned(Broker().assignment())
        await asyncio.sleep(0)
        yield made
        for worker in made.workers:
            worker.reporting.cancel()
    await redis.aclose()


def forecast(provider: str, bucket: str = "account", mode: Mode = "live") -> float:
    return float(bound_gauge(QUOTA_FORECAST, *BucketKey(provider, bucket, mode))._value.get())


async def test_a_busy_accounts_bulk_is_slowed_and_another_accounts_is_not(fleet: Fleet) -> None:
    rate = MINUTE.limit / 60
    for _ in range(150):
        for worker in fleet.workers:
            worker.spends(MINUTELY, busy=rate * 0.46, quiet=rate * 0.1)
        await fleet.passes()
    assert 0 < fleet.trims(MINUTELY, BUSY)["bulk"] < 1
    assert fleet.trims(MINUTELY, QUIET) == fleet.trims(MINUTELY, THIRD) == {}
    policy = fleet.newest(MINUTELY)
    assert (set(policy.trims), policy.trim) == ({BUSY}, {})
    assert BUSY in policy.reason
    assert fleet.quotas.has_quota(MINUTELY, "live")
    assert 0.8 < forecast(MINUTELY) < 1
    assert await fleet.given_up() == []
    for _ in range(30):
        await fleet.passes(5)
    assert fleet.trims(MINUTELY, BUSY) == {}, "and it may go on when it has stopped for a while"
    assert forecast(MINUTELY) == 0


async def test_a_quota_of_a_day_is_spared_long_before_it_is_spent(fleet: Fleet) -> None:
    day = next(one for one in DAILY_WINDOWS if one.seconds == DAY_S)
    minutes = 0
    while not fleet.trims(DAILY, BUSY):
        fleet.workers[minutes % 2].spends(DAILY, busy=day.limit * 60 / (DAY_S / 8), quiet=day.limit * 30 / DAY_S)
        await fleet.passes(60)
        minutes += 1
        assert minutes < 180, "two thirds of it are spent after two hours"
    assert set(fleet.trims(DAILY, BUSY)) == {"bulk"}
    assert fleet.trims(DAILY, QUIET) == {}
    assert minutes * 60 * 8 / DAY_S < 0.5, "less than half of it is spent"
    assert f"{BUSY}, {day.limit:g} in {DAY_S} s: " in fleet.newest(DAILY).reason
    assert fleet.newest(DAILY).windows == tuple(DAILY_WINDOWS)
    assert forecast(DAILY) > 0.8
    assert fleet.newest(DAILY, "app").trims == {}, "what all accounts share lasts"
    assert forecast(DAILY, "app") < 0.2
    assert await fleet.given_up() == []


async def test_what_one_accounts_answers_say_is_that_accounts(fleet: Fleet) -> None:
    rate, less = MINUTE.limit / 60, MINUTE.limit / 5
    for second in range(150):
        worker = fleet.workers[second % 2]
        worker.spends(MINUTELY, busy=rate * 0.19, quiet=rate * 0.19)
        worker.hears(
            MINUTELY,
            BUSY,
            throttled=second % 3 == 0,
            x_ratelimit_limit=less,
            x_ratelimit_remaining=5,
            x_ratelimit_reset=30,
        )
        worker.hears(MINUTELY, QUIET, x_ratelimit_limit=MINUTE.limit * 3, x_ratelimit_remaining=5, x_ratelimit_reset=30)
        await fleet.passes()
    policy = fleet.newest(MINUTELY)
    assert (policy.windows, policy.source) == ((MINUTE,), "published")
    assert {one.source for one in fleet.policies} == {"published"}
    assert fleet.trims(MINUTELY, BUSY)["bulk"] > 0, "19 % of the manifest's limit are 95 % of its own"
    assert fleet.trims(MINUTELY, QUIET) == {}
    assert f"{BUSY}, {less:g} in 60 s: " in policy.reason
    for worker in fleet.workers:
        believed = [[one.limit for one in worker.account(MINUTELY, name).windows] for name in (BUSY, QUIET, THIRD)]
        assert believed == [[less], [MINUTE.limit], [MINUTE.limit]]
    assert await fleet.given_up() == []


async def test_a_sandbox_takes_nothing_from_the_live_account_of_the_same_connection(fleet: Fleet) -> None:
    rate = MINUTE.limit / 60
    for _ in range(80):
        for worker in fleet.workers:
            worker.spends(MINUTELY, "sandbox", busy=rate)
            worker.spends(MINUTELY, busy=rate * 0.1)
        await fleet.passes()
    assert fleet.trims(MINUTELY, BUSY, "sandbox")["bulk"] == 1
    assert fleet.trims(MINUTELY, BUSY) == {}
    assert fleet.newest(MINUTELY).version == 1
    assert (fleet.quotas.has_quota(MINUTELY, "live"), fleet.quotas.has_quota(MINUTELY, "sandbox")) == (True, False)
    assert forecast(MINUTELY) < 0.4
    assert forecast(MINUTELY, mode="sandbox") > 1.5
    assert await fleet.given_up() == []


async def test_all_reports_of_a_kind_of_bucket_are_on_one_partition(fleet: Fleet) -> None:
    worker, other = fleet.workers
    for mode in MODES:
        worker.spends(MINUTELY, mode, busy=1, quiet=1)
        other.spends(MINUTELY, mode, third=1)
    sent = [one.key for one in await fleet.reports()]
    assert {key: sent.count(key) for key in sent} == {
        f"{MINUTELY}:app": 2,
        f"{MINUTELY}:app:sandbox": 2,
        f"{MINUTELY}:account": 3,
        f"{MINUTELY}:account:sandbox": 3,
    }
