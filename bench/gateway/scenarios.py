"""The scenarios of the gateway's bench: each prints its figures beside a baseline of the same run."""

from __future__ import annotations

import asyncio
import random
import signal
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from bench.gateway.load import Outcome, Plan, Request
from bench.gateway.workload import SCHEMES, mixed_sizes, mixture, request, shape, total_bytes
from bench.gateway.world import Target, World, world
from bench.processes import Server, ready
from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.service_kit import declared_topics
from contracts.topics import GATEWAY_EVENTS, TOPICS, Lane

PROVIDER, FIXTURE = "stripe", "charge.succeeded"
# Its signature holds no time, so that a delivery signed before an outage of ten minutes is still genuine after it.
TIMELESS, TIMELESS_FIXTURE = "square", "payment.updated"
CONNECTIONS = 256
SMALL_BYTES = 1_200
ROUNDS = 5
REQUESTS = 40_000
WARM_UP = 15_000
RESTART_RATE_PER_S, RESTART_S, RESTART_EVERY_S = 300.0, 30, 5.0
OUTAGES_S = (10, 60, 600)
# The bar for an acknowledgement (gateway.md B4, p99).
ACK_BAR_S = 0.025
# Where the mixed workload is measured; 43 KB on average, so that few requests are many bytes.
MIXED_REQUESTS = 6_000


async def rate() -> None:
    """Sustained verified deliveries: closed loop, 256 connections, 1.2 KB, gateway beside the bare handler."""
    figures: dict[str, list[tuple[float, float]]] = {"bare handler": [], "whole gateway": []}
    with world() as servers:
        target = await _prepared(servers)
        async with servers.bare(_BARE_TOPIC, target.keys.signing) as bare, servers.gateway() as gateway:
            for server in (bare, gateway):
                await _closed_loop(servers, server, _small(target, WARM_UP))
            for number in range(ROUNDS):
                for name, server in (("bare handler", bare), ("whole gateway", gateway)):
                    before = server.cpu_s()
                    outcome = await _closed_loop(servers, server, _small(target, REQUESTS))
                    each = (server.cpu_s() - before) / REQUESTS
                    figures[name].append((REQUESTS / outcome.seconds, each))
                    print(f"round {number + 1}: {name:<14} {_summary(outcome)}  {each * 1e6:5.1f} µs CPU each")
    medians = {
        name: [statistics.median(values) for values in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    for name, (per_s, each) in medians.items():
        print(f"median: {name:<14} {per_s:>8,.0f}/s  {each * 1e6:5.1f} µs CPU each")
    print(f"ratio: {medians['whole gateway'][0] / medians['bare handler'][0]:.2f}")


async def latency() -> None:
    """Time to the durable answer at 70 % of the sustained rate: open loop, 256 connections."""
    with world() as servers:
        target = await _prepared(servers)
        async with servers.bare(_BARE_TOPIC, target.keys.signing) as bare, servers.gateway() as gateway:
            for name, server in (("bare handler", bare), ("whole gateway", gateway)):
                await _closed_loop(servers, server, _small(target, WARM_UP))
                sustained = await _closed_loop(servers, server, _small(target, REQUESTS))
                per_s = 0.7 * REQUESTS / sustained.seconds
                plan = Plan(LOOPBACK, server.port, CONNECTIONS, per_s, _small(target, int(per_s * 6)))
                print(f"{name:<14} at {per_s:,.0f}/s: {_summary(await servers.load(plan))}")


async def mixed() -> None:
    """Take the schemes of gateway.md §5 with bad signatures, repeats, conflicts and codings: closed loop."""
    rng = random.Random(5)
    with world() as servers:
        await declared_topics(servers.kafka.bootstrap, *TOPICS)
        targets = {slug: servers.target(slug) for slug in SCHEMES}
        await servers.configure(list(targets.values()))
        async with servers.bare(_BARE_TOPIC, targets[PROVIDER].keys.signing) as bare, servers.gateway() as gateway:
            for name, server in (("bare handler", bare), ("whole gateway", gateway)):
                await _closed_loop(servers, server, _small(targets[PROVIDER], WARM_UP))
                requests = mixture(targets, REQUESTS, rng) if server is gateway else _small(targets[PROVIDER], REQUESTS)
                before = server.cpu_s()
                outcome = await _closed_loop(servers, server, requests)
                each = (server.cpu_s() - before) / REQUESTS * 1e6
                print(f"{name:<14} {_summary(outcome)}  {each:.0f} µs CPU each")
                print(f"  answers: {outcome.statuses}")
    print("(the bare handler knows one scheme: its requests are Stripe's, all genuine)")


async def sizes() -> None:
    """Take the body sizes of gateway.md §5, 1 % of them megabytes: closed loop, both sides with the same bodies."""
    with world() as servers:
        target = await _prepared(servers)
        shares = mixed_sizes(random.Random(7))
        shown = shape(PROVIDER, FIXTURE)
        async with servers.bare(_BARE_TOPIC, target.keys.signing) as bare, servers.gateway() as gateway:
            for name, server in (("bare handler", bare), ("whole gateway", gateway)):
                await _closed_loop(servers, server, _small(target, WARM_UP))
                requests = [
                    request(target, shown, group=name, size=size if name != "bare handler" else min(size, 900_000))
                    for size, _ in zip(shares, range(MIXED_REQUESTS), strict=False)
                ]
                before = server.cpu_s()
                outcome = await _closed_loop(servers, server, requests)
                each = (server.cpu_s() - before) / MIXED_REQUESTS * 1e6
                megabytes = total_bytes(requests) / outcome.seconds / 1e6
                print(f"{name:<14} {_summary(outcome)}  {megabytes:,.0f} MB/s  {each:.0f} µs CPU each")
    print("(the bare handler has no claim-check store: its bodies are cut to 900 KB, which flatters it)")


async def flood() -> None:
    """Critical beside a flood of bulk at ten times the capacity: open loop, latency of critical alone and under it."""
    with world() as servers:
        critical = await _prepared(servers, Lane.CRITICAL)
        bulk = servers.target(PROVIDER)
        await servers.configure([bulk], lane=Lane.BULK)
        async with servers.gateway() as gateway:
            await asyncio.sleep(1)
            await _closed_loop(servers, gateway, _small(critical, WARM_UP))
            sustained = REQUESTS / (await _closed_loop(servers, gateway, _small(critical, REQUESTS))).seconds
            few = sustained * 0.05
            alone = await servers.load(Plan(LOOPBACK, gateway.port, 64, few, _small(critical, int(few * 8))))
            print(f"critical alone   at {few:,.0f}/s: {_summary(alone)}")
            # What floods must not take the processor from what it floods: on machines of their own it could not.
            under, flooded = await asyncio.gather(
                servers.load(Plan(LOOPBACK, gateway.port, 64, few, _small(critical, int(few * 8)))),
                servers.load(Plan(LOOPBACK, gateway.port, 2048, 0, _small(bulk, int(sustained * 7))), niceness=10),
            )
            print(f"critical flooded at {few:,.0f}/s: {_summary(under)}")
            print(f"bulk, 2,048 connections without pause: {_summary(flooded)}")


async def memory() -> None:
    """Resident memory under 5,000 silent sockets and 200 uploads of 4 MiB at once, with the critical lane alive."""
    with world() as servers:
        critical = await _prepared(servers, Lane.CRITICAL)
        bulk = servers.target(PROVIDER)
        await servers.configure([bulk], lane=Lane.BULK)
        async with servers.gateway() as gateway:
            await asyncio.sleep(1)
            before = gateway.rss_bytes()
            silent = [await asyncio.open_connection(LOOPBACK, gateway.port) for _ in range(5_000)]
            for number, (_, writer) in enumerate(silent):
                # Half of them stop inside of the headers, half inside of the body.
                head = f"POST /hooks/{bulk.endpoint} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
                writer.write(head.encode() + (b"" if number % 2 else b"\r\nhalf"))
            shown = shape(PROVIDER, FIXTURE)
            uploads = [request(bulk, shown, group="upload", size=4 * 1024 * 1024) for _ in range(200)]
            peak = 0

            async def watch() -> None:
                nonlocal peak
                while True:
                    peak = max(peak, gateway.rss_bytes())
                    await asyncio.sleep(0.02)

            watching = asyncio.create_task(watch())
            uploaded, alive = await asyncio.gather(
                servers.load(Plan(LOOPBACK, gateway.port, 200, 0, uploads)),
                servers.load(Plan(LOOPBACK, gateway.port, 16, 200, _small(critical, 2_000))),
            )
            watching.cancel()
            for _, writer in silent:
                writer.close()
            print(f"RSS idle {before / 2**20:,.0f} MiB, peak {peak / 2**20:,.0f} MiB")
            print(f"uploads: {_summary(uploaded)}")
            print(f"critical meanwhile: {_summary(alive)}")


async def outage() -> None:
    """Stop the broker for 10 s, 60 s and 10 min under load: how soon senders hear it, and how soon it is over."""
    with world() as servers:
        target = await _prepared(servers, provider=TIMELESS)
        shown = shape(TIMELESS, TIMELESS_FIXTURE)
        async with servers.gateway() as gateway:
            warm_up = [request(target, shown, group="small", size=SMALL_BYTES) for _ in range(WARM_UP)]
            await _closed_loop(servers, gateway, warm_up)
            for seconds in OUTAGES_S:
                rate_per_s, count = 200, 200 * (seconds + 30)
                sent = [request(target, shown, group="small", size=SMALL_BYTES) for _ in range(count)]
                plan = Plan(LOOPBACK, gateway.port, 2_000, rate_per_s, sent)
                stopping = asyncio.create_task(_stopped(servers, after_s=5, for_s=seconds))
                outcome = await servers.load(plan)
                await stopping
                print(f"broker stopped for {seconds} s: {_summary(outcome)}")
                print(f"  {_recovery(outcome, rate_per_s, back_at_s=5 + seconds)}")


async def _stopped(servers: World, *, after_s: float, for_s: float) -> None:
    process = servers.kafka.process
    if process is None:
        raise RuntimeError("the broker is not running")
    await asyncio.sleep(after_s)
    process.ref.signal(signal.SIGSTOP)
    await asyncio.sleep(for_s)
    process.ref.signal(signal.SIGCONT)


async def restart() -> None:
    """Replace the gateway behind a load balancer under load, beside stopping it and starting it anew."""
    with world() as servers:
        target = await _prepared(servers)
        count = int(RESTART_RATE_PER_S * RESTART_S)
        for name, replace in (("rolling", _rolled), ("stop, then start", _stopped_and_started)):
            first, second = free_port(), free_port()
            ended = asyncio.Event()
            replacing = asyncio.create_task(replace(servers, (first, second), ended))
            await ready(f"http://{LOOPBACK}:{first}/ready")
            plan = Plan(LOOPBACK, first, 64, RESTART_RATE_PER_S, _small(target, count), others=(second,))
            outcome = await servers.load(plan)
            ended.set()
            replaced = await replacing
            print(f"{name:<16} {replaced} replaced: {_summary(outcome)}")


async def _rolled(servers: World, ports: tuple[int, int], ended: asyncio.Event) -> int:
    """Run gateways one after another, each ready before the one before it is asked to leave."""
    replaced = 0
    async with AsyncExitStack() as running:
        await running.enter_async_context(servers.gateway(ports[0]))
        while not await _within(ended, RESTART_EVERY_S):
            other = AsyncExitStack()
            replaced += 1
            await other.enter_async_context(servers.gateway(ports[replaced % 2]))
            await running.aclose()
            running.push_async_exit(other)
    return replaced


async def _stopped_and_started(servers: World, ports: tuple[int, int], ended: asyncio.Event) -> int:
    replaced = -1
    while not ended.is_set():
        async with servers.gateway(ports[0]):
            await _within(ended, RESTART_EVERY_S)
        replaced += 1
    return replaced


async def _within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _recovery(outcome: Outcome, rate_per_s: float, *, back_at_s: float) -> str:
    """Return the slowest refusal, and from when on after the broker's return the acknowledgements keep to their bar.

    The bar is a p99, so it is the first moment after which at most 1 % of the answers are late or refused.
    """
    slowest = max((took for _, status, took in outcome.answered if status == 503), default=0.0)
    late, back_at = 0, len(outcome.answered) / rate_per_s
    for answers, (index, status, took) in enumerate(sorted(outcome.answered, reverse=True), start=1):
        late += status != 200 or took > ACK_BAR_S
        if late <= answers / 100:
            back_at = index / rate_per_s
    return (
        f"slowest 503 after {slowest:.2f} s; p99 within {ACK_BAR_S * 1e3:.0f} ms again "
        f"{max(back_at - back_at_s, 0):.1f} s after its return"
    )


_BARE_TOPIC = GATEWAY_EVENTS[Lane.STANDARD].name


async def _prepared(servers: World, lane: Lane = Lane.STANDARD, provider: str = PROVIDER) -> Target:
    await declared_topics(servers.kafka.bootstrap, *TOPICS)
    target = servers.target(provider)
    await servers.configure([target], lane=lane)
    return target


def _small(target: Target, count: int) -> list[Request]:
    shown = shape(PROVIDER, FIXTURE)
    return [request(target, shown, group="small", size=SMALL_BYTES) for _ in range(count)]


async def _closed_loop(servers: World, server: Server, requests: Sequence[Request]) -> Outcome:
    return await servers.load(Plan(LOOPBACK, server.port, CONNECTIONS, 0, requests))


def _summary(outcome: Outcome) -> str:
    latencies = sorted(value for group in outcome.latencies.values() for value in group)
    counts: dict[int, int] = {}
    for statuses in outcome.statuses.values():
        for status, count in statuses.items():
            counts[status] = counts.get(status, 0) + count
    shown = ", ".join(f"{status}: {count:,}" for status, count in sorted(counts.items()))
    p50, p99, p999 = (latencies[min(len(latencies) - 1, int(len(latencies) * q))] * 1e3 for q in (0.5, 0.99, 0.999))
    total = sum(counts.values())
    return f"{total / outcome.seconds:>8,.0f}/s  p50 {p50:6.1f}  p99 {p99:6.1f}  p99.9 {p999:6.1f} ms  [{shown}]"
