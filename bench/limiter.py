"""`python -m bench.limiter`: what the limiter costs per call, and what it does for eight workers that share a quota.

Cost: on a real Redis, beside `limits` and `PyrateLimiter` in the same run (`pip install limits pyrate-limiter`; without
them their rows are left out, and it says so). Scenario S1 of health-monitor.md §4.7: the real limiters and the real
script on a clock that is moved, beside uncoordinated workers with full jitter. Read ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import uvloop

from chassis.clock import SystemClock
from chassis.redis import Redis, connect
from chassis.telemetry.metrics import bound_counter
from chassis.testing.clock import ManualClock
from chassis.testing.redis import PrivateRedis
from contracts.errors import Transient
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from sync_worker.limiter.feedback import Feedback
from sync_worker.limiter.fleet import HEAL_S
from sync_worker.limiter.leases import Limiter
from sync_worker.limiter.metrics import STORE_TRIPS
from sync_worker.limiter.policies import CallPath, PolicyBook
from sync_worker.limiter.store import Ask, Notice, QuotaStore, Reply
from sync_worker.limiter.usage import RetryBudgets, UsageBook

BASE_US = 1_800_000_000_000_000
LIMIT, WINDOW_S, SECONDS = 1000, 10, 120
SKEW = (30, 10, 5, 5, 4, 3, 2, 1)  # interactive calls a second, by worker
BULK, BULK_AT, BULK_WORKERS = 3000, 35.0, 2
TICK_S = 0.01
TRAVEL_S = 0.02
PHASES = (3.0, 6.7)
# What is asked of the limiter (issue 5, "Numbers").
CPU_BAR_US, TRIPS_BAR, REFUSED_BAR = 25, 0.15, 0.001


def policy(provider: str, window: QuotaWindow) -> QuotaPolicy:
    return QuotaPolicy(
        provider=provider, bucket="account", windows=(window,), version=1, decided_at=datetime(2026, 1, 1, tzinfo=UTC)
    )


# -- cost per call ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """CPU of the calling process in microseconds per call, round trips per call, and the median of the fast path."""

    cpu_us: float
    trips: float
    fast_us: float | None = None


async def offered(per_s: int, seconds: float, call: Callable[[], object]) -> tuple[int, float]:
    """Call at a steady rate; return the calls and the CPU seconds that this took, pacing included."""
    cpu, start, done = time.process_time(), time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        while done < elapsed * per_s:
            call()
            done += 1
        await asyncio.sleep(0.002)
    return done, time.process_time() - cpu


async def cost_of_leases(url: str, per_s: int, seconds: float) -> Cost:
    redis, clock = connect(url), SystemClock()
    book = PolicyBook()
    book.put(policy("cost", QuotaWindow(limit=1_000_000, seconds=1, burst=100_000)))
    limiter = Limiter(QuotaStore(redis, "w1"), clock, UsageBook(clock, "w1"), RetryBudgets(clock.monotonic), workers=1)
    running = asyncio.create_task(limiter.run())
    path = book.path("cost", "c")
    waits: set[asyncio.Task[object]] = set()

    def call() -> None:
        if limiter.take_now(path, "interactive") is None:
            task: asyncio.Task[object] = asyncio.create_task(
                limiter.take(path, "interactive", 1.0, time.monotonic() + 30)
            )
            waits.add(task)
            task.add_done_callback(waits.discard)

    await offered(per_s, HEAL_S + 1, call)
    trips = bound_counter(STORE_TRIPS, "answered")._value  # noqa: SLF001 (the client offers no way to read a counter)
    before = trips.get()
    calls, cpu = await offered(per_s, seconds, call)
    used = trips.get() - before
    _, idle = await offered(per_s, seconds, lambda: None)
    fast = await fast_path_us(limiter, path)
    running.cancel()
    await redis.aclose()
    return Cost((cpu - idle) / calls * 1e6, used / calls, fast)


async def fast_path_us(limiter: Limiter, path: CallPath) -> float:
    """Return the median of `await take` while the lease lasts, in microseconds; the timer's own cost is included."""
    samples: list[float] = []
    while len(samples) < 20_000:
        await limiter.take(path, "interactive", 1.0, time.monotonic() + 30)
        pool = limiter._pools[path, "interactive"]  # noqa: SLF001 (only what a lease covers is the fast path)
        for _ in range(int(min(pool.units, 50))):
            start = time.perf_counter_ns()
            await limiter.take(path, "interactive", 1.0, 1e12)
            samples.append((time.perf_counter_ns() - start) / 1000)
    return statistics.median(samples)


async def cost_of(call: Callable[[], object], per_s: int, seconds: float) -> Cost:
    """Return the cost of a call that always asks Redis, offered at the same rate as to the limiter."""
    await offered(per_s, 1, call)
    calls, cpu = await offered(per_s, seconds, call)
    _, idle = await offered(per_s, seconds, lambda: None)
    return Cost((cpu - idle) / calls * 1e6, 1.0)


def baselines(url: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the libraries' calls, each as its documentation uses it."""
    try:
        limits, strategies = import_module("limits"), import_module("limits.strategies")
        storage = import_module("limits.storage").storage_from_string(url)
    except ImportError:
        print("limits is not installed: pip install limits")
    else:
        item = limits.RateLimitItemPerSecond(1_000_000)
        fixed, sliding = strategies.FixedWindowRateLimiter(storage), strategies.SlidingWindowCounterRateLimiter(storage)
        yield "limits, fixed window", lambda: fixed.hit(item, "bench")
        yield "limits, sliding window", lambda: sliding.hit(item, "bench")
    try:
        pyrate = import_module("pyrate_limiter")
        client = import_module("redis").Redis.from_url(url)
    except ImportError:
        print("pyrate-limiter is not installed: pip install pyrate-limiter redis")
    else:
        bucket = pyrate.RedisBucket.init([pyrate.Rate(1_000_000, 1000)], client, "bench:pyrate")
        limiter = pyrate.Limiter(bucket)
        yield "PyrateLimiter, Redis", lambda: limiter.try_acquire("bench", blocking=False)


# -- scenario S1 ------------------------------------------------------------------------------------------------------


@dataclass
class Provider:
    """Counts like the provider: 1,000 calls per 10 s, windows that start `phase` seconds after ours."""

    phase: float = 0.0
    counts: dict[int, int] = field(default_factory=dict)
    refused: int = 0

    def call(self, at: float) -> bool:
        """Count a call and tell whether it is let in."""
        index = int((at - self.phase) // WINDOW_S)
        self.counts[index] = self.counts.get(index, 0) + 1
        if self.counts[index] > LIMIT:
            self.refused += 1
            return False
        return True

    def headers(self, at: float, *, refused: bool) -> dict[str, str]:
        """Return what an answer says: limit, units left, and whole seconds to the reset, rounded up."""
        left_s = math.ceil(WINDOW_S - (at - self.phase) % WINDOW_S)
        left = max(0, LIMIT - self.counts.get(int((at - self.phase) // WINDOW_S), 0))
        said = {"x-ratelimit-limit": str(LIMIT), "x-ratelimit-remaining": str(left), "x-ratelimit-reset": str(left_s)}
        return said | ({"retry-after": str(left_s)} if refused else {})


@dataclass
class Outcome:
    """What a run of the scenario shows."""

    provider: Provider
    waits: list[float] = field(default_factory=list)
    bulk_done: list[float] = field(default_factory=list)

    def served(self, call_class: CallClass, waited_s: float, at: float) -> None:
        """Count a call that the provider let in."""
        if call_class == "interactive":
            self.waits.append(waited_s)
        else:
            self.bulk_done.append(at)

    def row(self, name: str) -> str:
        """Return the row of the table."""
        waits = sorted(self.waits) or [0.0]
        done = (
            f"{self.bulk_done[BULK - 1] - BULK_AT:.0f} s" if len(self.bulk_done) >= BULK else f"{len(self.bulk_done)}"
        )
        refused = self.provider.refused
        part = refused / sum(self.provider.counts.values())
        return (
            f"| {name} | {refused} ({part:.2%}) | {statistics.fmean(waits):.3f} s "
            f"| {waits[int(len(waits) * 0.99) - 1]:.2f} s | {done} | {max(self.provider.counts.values())} |"
        )


def arrivals(seed: int) -> list[tuple[float, int, CallClass]]:
    """Return the calls of S1: (instant, worker, class)."""
    source = random.Random(seed)
    calls: list[tuple[float, int, CallClass]] = []
    for worker, rate in enumerate(SKEW):
        at = source.expovariate(rate)
        while at < SECONDS:
            calls.append((at, worker, "interactive"))
            at += source.expovariate(rate)
    calls += [(BULK_AT, number % BULK_WORKERS, "bulk") for number in range(BULK)]
    return sorted(calls)


def uncoordinated(seed: int) -> Outcome:
    """Everybody calls at once and after a 429 waits full jitter up to 30 s."""
    source, outcome = random.Random(seed), Outcome(Provider())
    due = [(at, number, 0, at, call_class) for number, (at, _, call_class) in enumerate(arrivals(seed))]
    heapq.heapify(due)
    while due:
        at, number, attempt, first, call_class = heapq.heappop(due)
        if at > 2 * SECONDS:
            break
        if outcome.provider.call(at):
            outcome.served(call_class, at - first, at)
        else:
            again = at + source.uniform(0, min(30.0, 0.2 * 2**attempt))
            heapq.heappush(due, (again, number, attempt + 1, first, call_class))
    return outcome


async def coordinated(url: str, seed: int, phase: float) -> Outcome:
    """Run the shipped limiter in eight workers; a call reaches the provider 20 ms after its grant."""
    redis, clock = connect(url), ManualClock()
    await redis.flushall()
    lead_s = 2 * WINDOW_S  # the store heals, and the windows of interactive calls have a history
    outcome = Outcome(Provider(phase))
    workers = [_worker(redis, clock, f"w{number}") for number in range(len(SKEW))]
    running = [asyncio.create_task(limiter.run()) for limiter, _, _ in workers]
    tasks: set[asyncio.Task[None]] = set()

    async def call(worker: int, call_class: CallClass, first: float) -> None:
        limiter, path, feedback = workers[worker]
        start = clock.monotonic()
        with contextlib.suppress(Transient):
            while True:
                await limiter.take(path, call_class, 1.0, start + SECONDS)
                sent_at = clock.monotonic()
                arrives = sent_at - lead_s + TRAVEL_S
                passed = outcome.provider.call(arrives)
                said = outcome.provider.headers(arrives, refused=not passed)
                await clock.sleep(2 * TRAVEL_S)
                feedback.answered(path, "success" if passed else "throttled", said, sent_at)
                if passed:
                    break
            if first >= 0:
                outcome.served(call_class, sent_at - start, sent_at - lead_s)

    early = [(at - lead_s, worker, kind) for at, worker, kind in arrivals(seed + 1) if at < lead_s and kind != "bulk"]
    calls = iter([*early, *arrivals(seed), (1e9, 0, "bulk")])
    at, worker, kind = next(calls)
    while clock.monotonic() < lead_s + 1.5 * SECONDS:
        while at <= clock.monotonic() - lead_s:
            task = asyncio.create_task(call(worker, kind, at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            at, worker, kind = next(calls)
        await _settle()
        clock.advance(TICK_S)
    for one in [*running, *tasks]:
        one.cancel()
    await asyncio.gather(*running, *tasks, return_exceptions=True)
    await redis.aclose()
    return outcome


class WatchedStore(QuotaStore):
    """Knows whether a round trip is under way."""

    busy = 0

    async def exchange(self, asks: Sequence[Ask], notices: Sequence[Notice] = ()) -> list[Reply]:
        """Count the round trip while it lasts."""
        WatchedStore.busy += 1
        try:
            return await super().exchange(asks, notices)
        finally:
            WatchedStore.busy -= 1


def _worker(redis: Redis, clock: ManualClock, name: str) -> tuple[Limiter, CallPath, Feedback]:
    book = PolicyBook()
    book.put(policy("s1", QuotaWindow(limit=LIMIT, seconds=WINDOW_S, shape="fixed")))
    store = WatchedStore(redis, name, timeout_s=10, time_us=lambda: BASE_US + round(clock.monotonic() * 1e6))
    usage, retries = UsageBook(clock, name), RetryBudgets(clock.monotonic)
    limiter = Limiter(store, clock, usage, retries, workers=len(SKEW))
    return limiter, book.path("s1", "c"), Feedback(limiter, book, usage, retries, clock)


async def _settle() -> None:
    calm = 0
    while calm < 5:
        await asyncio.sleep(0)
        calm = 0 if WatchedStore.busy else calm + 1


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, PrivateRedis(Path(folder) / "redis") as server:
        if arguments.part in {"cost", "all"}:
            print("| limiter | CPU per call | round trips per call | take, p50 |\n|---|---|---|---|")
            others = list(baselines(server.url))
            for per_s in (200, 1000, 5000):
                costs = [await cost_of_leases(server.url, per_s, arguments.seconds) for _ in range(arguments.rounds)]
                _print_cost(f"Patchbay at {per_s} calls/s (bar: {CPU_BAR_US} µs, {TRIPS_BAR})", costs)
                for name, call in others:
                    costs = [await cost_of(call, per_s, arguments.seconds) for _ in range(arguments.rounds)]
                    _print_cost(f"{name}, at {per_s} calls/s", costs)
        if arguments.part in {"s1", "all"}:
            print(
                f"\n| S1 | 429s (bar: {REFUSED_BAR:.1%}) | interactive mean wait | p99 | bulk done | fullest window |"
                "\n|---|---|---|---|---|---|"
            )
            for seed in range(arguments.rounds):
                print(uncoordinated(seed).row("uncoordinated, full jitter"))
                print((await coordinated(server.url, seed, 0.0)).row("Patchbay"))
                for phase in PHASES:
                    name = f"Patchbay, the provider's windows {phase:g} s off"
                    print((await coordinated(server.url, seed, phase)).row(name))


def _print_cost(name: str, costs: list[Cost]) -> None:
    cpu = statistics.median(cost.cpu_us for cost in costs)
    trips = statistics.median(cost.trips for cost in costs)
    fast = [cost.fast_us for cost in costs if cost.fast_us is not None]
    print(f"| {name} | {cpu:.1f} µs | {trips:.3f} | {f'{statistics.median(fast):.2f} µs' if fast else ''} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=["all", "cost", "s1"], default="all")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; of costs the median is printed")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a cost measurement")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
