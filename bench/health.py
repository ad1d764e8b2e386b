"""`make bench-health`: how fast an outage is seen, told and over, beside a counter of five failures in a row.

Detection and recovery run in virtual time on the shipped state machine; propagation and one whole outage in real time
on a private Redis, Kafka and PostgreSQL. Stands in for workers: calls evenly spaced, probes as the record asks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from pydantic import SecretStr

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
from contracts.events.health import RouteState
from contracts.events.sync import CallRun, CallsObserved, Outcome
from contracts.ids import uuid7
from contracts.modes import calls_key
from contracts.topics import HEALTH_QUOTAS, HEALTH_ROUTES, PLATFORM_AUDIT, SYNC_CALLS, SYNC_QUOTA_USAGE
from health_monitor.app import create
from health_monitor.settings import Settings
from health_monitor.states import Machine
from sync_worker.outbound.breaker import ROUTE, Breakers
from sync_worker.outbound.path import DOUBT_S
from sync_worker.outbound.route_table import Place

PROCESSES, SUBSCRIPTIONS = 4, 5
TICK_S = 0.01
HANG_AGE_S = 0.5
PROBE_TIMEOUT_S = 0.5
FLUSH_S = 0.02
WORKERS = 2
# As the workers' prober: a burst is three at once, 100 ms apart, and then three a second.
PROBE_EVERY = {"idle": 5.0, "burst": 1 / 3, "canary": 1.0}
BURST_GAPS_S = (0.0, 0.1, 0.2)
# Until a worker hears of a decision, p99 of `propagation` below.
HEARD_S = 0.01
CAPABILITY = "messaging.sms"
_ROUTE = Place("acme", CAPABILITY, "live")
MOST_FAILURES = 100


def run_of(outcome: Outcome, number: int, *, probe: bool = False, kind: str = "final") -> CallRun:
    return CallRun.model_validate(
        {
            "operation": "op",
            "outcome": outcome,
            "count": 1,
            "tenant": f"t{number % 3}",
            "credential": "c",
            "probe": probe,
            "kind": kind,
            "latency_ms_sum": 1,
            "latency_ms_max": 1,
        }
    )


class InARow:
    """The baseline: five failures in a row shut a route, three good probes in a row open it."""

    def __init__(self) -> None:
        self.down = False
        self._bad = self._good = 0

    def call(self, *, failed: bool) -> None:
        """Take one outcome."""
        self._bad = self._bad + 1 if failed else 0
        self._good = 0 if failed else self._good + 1
        if (self._bad >= 5) if not self.down else (self._good >= 3):
            self.down, self._bad, self._good = not self.down, 0, 0


@dataclass
class World:
    """One provider in virtual time, with a machine or the baseline to route its calls."""

    rate: float
    fault: Callable[[float], str]
    seed: int
    baseline: InARow | None = None
    machine: Machine = field(init=False)
    now: float = 0.0
    failed_calls: int = 0
    switches: list[tuple[float, RouteState]] = field(default_factory=list)
    _due: list[tuple[float, bool, int, str]] = field(default_factory=list)
    _reported: list[tuple[float, bool, int, str]] = field(default_factory=list)
    _waiting: list[tuple[float, int]] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self._dice = Random(self.seed)
        self.machine = Machine(self._dice)
        self._call_at = self._dice.random() / (self.rate or 1)
        self._probes_at = [[self._dice.random() * PROBE_EVERY["idle"]] for _ in range(WORKERS)]
        self._wanted = "idle"
        self.doubts: list[Breakers[Place]] = [
            Breakers(lambda: self.now, self._dice.uniform, ROUTE) for _ in range(WORKERS)
        ]
        for worker, doubt in enumerate(self.doubts if self.baseline is None else ()):
            doubt.on_open = lambda _place, worker=worker: self._burst(worker)  # type: ignore[misc]

    @property
    def share(self) -> float:
        """The part of the calls that goes to the provider."""
        if self.baseline is not None:
            return 0.0 if self.baseline.down else 1.0
        return self.machine.share / 100

    def play(self, until: float) -> World:
        """Let time pass."""
        while self.now < until:
            self.now += TICK_S
            if self.rate and self.now >= self._call_at:
                self._call_at += 1 / self.rate
                if self._dice.random() < self.share:
                    self._ask()
            self._go_on()
            self._probe()
            arrived = [one for one in self._due if one[0] <= self.now]
            self._due = [one for one in self._due if one[0] > self.now]
            for at, probe, number, outcome in arrived:
                self._end(at, outcome, number, probe=probe)
            reported = [one for one in self._reported if one[0] <= self.now]
            self._reported = [one for one in self._reported if one[0] > self.now]
            for _, probe, number, outcome in reported:
                self._arrive(outcome, number, probe=probe)
            if self.baseline is None:
                self._note(self.machine.tick(self.now))
        return self

    def _ask(self) -> None:
        """Make a call, or let it wait where its worker's last two failed."""
        self._number += 1
        if self.baseline is None and self.doubts[self._number % WORKERS].shut_for_s(_ROUTE) > 0:
            self._waiting.append((self.now + DOUBT_S, self._number))
        else:
            self._start(self._number, probe=False)

    def _go_on(self) -> None:
        """Take up calls that wait; they go elsewhere once a decision is there, and later if none is."""
        waiting, self._waiting = self._waiting, []
        for until, number in waiting if self.share else ():
            if self.doubts[number % WORKERS].shut_for_s(_ROUTE) == 0:
                self._start(number, probe=False)
            elif self.now < until:
                self._waiting.append((until, number))

    def _burst(self, worker: int) -> None:
        planned = self._probes_at[worker]
        planned[:] = [self.now + gap for gap in BURST_GAPS_S]

    def _probe(self) -> None:
        """Send the probes that are due, of each worker."""
        if self.baseline is not None:
            wanted = "canary" if self.baseline.down else "idle"
        else:
            wanted = self.machine.probe(self.now)
        changed, self._wanted = wanted != self._wanted, wanted
        for planned in self._probes_at:
            if changed and wanted == "burst":
                planned[:] = [self.now + HEARD_S + gap for gap in BURST_GAPS_S]
            elif changed:
                planned[:] = [min(planned[0], self.now + PROBE_EVERY[wanted])]
            while planned[0] <= self.now:
                sent = planned.pop(0)
                self._number += 1
                self._start(self._number, probe=True)
                if not planned:
                    planned.append(sent + PROBE_EVERY[wanted])

    def _start(self, number: int, *, probe: bool) -> None:
        mode = self.fault(self.now)
        takes = {"ok": 0.05, "500": 0.02, "hang": PROBE_TIMEOUT_S if probe else HANG_AGE_S}[mode]
        if mode != "ok" and not probe:
            self.failed_calls += 1
        self._due.append((self.now + takes, probe, number, mode))

    def _end(self, at: float, mode: str, number: int, *, probe: bool) -> None:
        """Let a worker see how a call ended; the health monitor hears of it a flush later."""
        self.doubts[number % WORKERS].record(_ROUTE, failed=mode != "ok")
        self._reported.append((at + FLUSH_S, probe, number, mode))

    def _arrive(self, mode: str, number: int, *, probe: bool) -> None:
        if self.baseline is not None:
            was = self.baseline.down
            self.baseline.call(failed=mode != "ok")
            if was != self.baseline.down:
                self.switches.append((self.now, RouteState.HEALTHY if was else RouteState.DOWN))
            return
        outcome: Outcome = "success" if mode == "ok" else "server_error" if mode == "500" else "timeout"
        kind = "provisional" if mode == "hang" and not probe else "final"
        self._note(self.machine.observe(run_of(outcome, number, probe=probe, kind=kind), f"w{number % 2}", self.now))

    def _note(self, moves: list) -> None:  # type: ignore[type-arg]  # of health_monitor.states.Move
        for move in moves:
            main = {RouteState.DOWN, RouteState.DEGRADED}
            back = move.before is move.after is RouteState.RECOVERING and move.share == 100
            if back or (move.after in main and move.before is not RouteState.RECOVERING):
                self.switches.append((self.now, move.after))


def outage(rate: float, mode: str, seed: int, *, baseline: bool) -> tuple[float, int, float]:
    """Return seconds to DOWN, calls that failed until then, and seconds from the provider's return to full traffic."""
    start, length = 200.0, 60.0
    world = World(
        rate, lambda now: mode if start <= now < start + length else "ok", seed, InARow() if baseline else None
    )
    world.play(start)
    world.switches.clear()
    failed = world.failed_calls
    while not world.switches and world.now < start + length:
        world.play(world.now + TICK_S)
    seen, lost = world.now - start, world.failed_calls - failed
    world.play(start + length)
    while world.now < start + length + 120 and not _back(world):
        world.play(world.now + TICK_S)
    return seen, lost, world.now - start - length


def _back(world: World) -> bool:
    if world.baseline is not None:
        return not world.baseline.down
    return world.machine.share == 100


def virtual(runs: int) -> None:
    print(
        f"\nVirtual time, {runs} runs each; p50 / max. Probes take {PROBE_TIMEOUT_S} s in a hang, reports {FLUSH_S} s."
    )
    print(f"{'fault':<22}{'to the decision (s)':>22}{'failed calls':>16}{'back at 100 % (s)':>20}")
    for rate, mode, name in (
        (10, "500", "5xx, 10 calls/s"),
        (20, "500", "5xx, 20 calls/s"),
        (50, "500", "5xx, 50 calls/s"),
        (100, "500", "5xx, 100 calls/s"),
        (10, "hang", "hang, 10 calls/s"),
        (0, "500", "5xx, no traffic"),
    ):
        for baseline in (False, True):
            found = [outage(rate, mode, seed, baseline=baseline) for seed in range(runs)]
            seen, lost, back = zip(*found, strict=True)
            label = f"{name}" if not baseline else "   5 in a row"
            print(f"{label:<22}{_spread(seen):>22}{_spread(lost):>16}{_spread(back):>20}")
    flaps = {}
    for name, counter in (("shipped", None), ("5 in a row", InARow)):
        worlds = [
            World(10, lambda now: "500" if now % 20 >= 10 else "ok", seed, counter() if counter else None).play(300)
            for seed in range(runs)
        ]
        flaps[name] = [len(world.switches) for world in worlds]
    told = ", ".join(f"{name}: p50 {statistics.median(found):g}, max {max(found)}" for name, found in flaps.items())
    print(f"flapper 10 s / 10 s, switches in 5 min: {told}")


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}"


# --- real time --------------------------------------------------------------------------------------------------------


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs per fault in virtual time")
    parser.add_argument("--outages", type=int, default=5, help="outages of the whole service in real time")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.follow:
        asyncio.run(follow(given.follow, given.epochs))
        return
    virtual(given.runs)
    asyncio.run(real(given.epochs, given.outages))


if __name__ == "__main__":
    main()
