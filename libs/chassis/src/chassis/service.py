"""A service process: what it is made of, and the one order in which it starts and drains (stack.md §2d).

Stores first, then the producer and the relay, then state that handlers need, HTTP, and consumers last; the reverse on
SIGTERM. A store that is away is waited for, and `/ready` says which. Must never report ready before everything that
answers depend on is there.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final

from aiokafka.errors import KafkaError
from starlette.routing import BaseRoute

from chassis.clock import Clock, SystemClock
from chassis.db import inbox
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.db.relay import OutboxRelay
from chassis.http.auth import TokenVerifier
from chassis.http.rsgi import RsgiApp, serve_asgi
from chassis.http.server import HttpServer, build_app
from chassis.kafka.broker import LoopRunner
from chassis.kafka.loop import BatchLoop
from chassis.kafka.producer import Publisher
from chassis.kafka.state import StateReader
from chassis.settings import ServiceSettings
from chassis.telemetry.logs import logger, setup_logs
from chassis.telemetry.metrics import SERVICE_READY, gauge
from chassis.telemetry.traces import setup_traces

log = logger(__name__)

RELAY_DRAIN_S: Final = 5.0
STORE_RETRY_S: Final = 1.0
WATCH_INTERVAL_S: Final = 1.0
INBOX_SWEEP_INTERVAL_S: Final = 3600.0
# A stuck consumer does not recover by itself (aiokafka#1037): after this long the process ends, to be restarted.
STUCK_LIMIT_S: Final = 10.0
# A loop that was blocked this long answers nobody and misses heartbeats.
LOOP_LAG_LIMIT_S: Final = 5.0

Background = Callable[[], Awaitable[None]]


class _ToldToStop(Exception):  # noqa: N818 (a signal, not a fault)
    """SIGTERM came before the service was ready."""


class Service:
    """One process of one service. Compose it with the `add_*` methods, then `run` it once."""

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        *,
        database: Database | None = None,
        publisher: Publisher | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.database = database
        self.publisher = publisher or Publisher(settings.kafka_bootstrap)
        self.clock = clock or SystemClock()
        self.tokens = TokenVerifier(settings.jwks, issuer=settings.jwt_issuer, audience=settings.jwt_audience)
        self._publishers = [self.publisher]
        self._loops = LoopRunner(
            settings.kafka_bootstrap, instance=settings.instance, drain_timeout_s=settings.drain_timeout_s
        )
        self._routes: list[BaseRoute] = []
        self._readers: list[StateReader] = []
        self._background: list[tuple[str, Background]] = []
        self._draining: list[Background] = []
        self._front: Callable[[RsgiApp], RsgiApp] | None = None
        self._starting = "starting"
        self._lag_s = 0.0
        self._dead_tasks: list[str] = []
        self._database_problem: str | None = None
        self._stop = asyncio.Event()

    def add_loop(self, loop: BatchLoop) -> None:
        """Consume topics."""
        self._loops.add(loop)

    def add_routes(self, routes: Sequence[BaseRoute]) -> None:
        """Serve HTTP routes."""
        self._routes.extend(routes)

    def add_reader(self, reader: StateReader) -> None:
        """Hold a compacted topic in memory; the service is not ready before its end was reached once."""
        self._readers.append(reader)

    def add_background(self, name: str, run: Background) -> None:
        """Run a coroutine for the life of the service; if it ends, the service is no longer live."""
        self._background.append((name, run))

    def add_publisher(self, publisher: Publisher) -> None:
        """Connect another producer with the service's own; for traffic that must not share its batches."""
        self._publishers.append(publisher)

    def add_drain(self, drain: Background) -> None:
        """Await `drain` on shutdown, after intake stopped and before the stores close."""
        self._draining.append(drain)

    def put_in_front(self, front: Callable[[RsgiApp], RsgiApp]) -> None:
        """Serve with an RSGI app of the service's own that hands on what is not its (the gateway's hot path).

        Once `leaving` is true, it should end each connection with its answer: there are `farewell_s` to go elsewhere.
        """
        self._front = front

    def leaving(self) -> bool:
        """Tell whether the process was asked to stop; requests are still served."""
        return self._stop.is_set()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain. Blocking; exits with status 1 when a part of the service died."""
        setup_logs(self.name, self.settings.log_level)
        provider = setup_traces(
            self.name, trace_file=self.settings.trace_file, sample_ratio=self.settings.trace_sample_ratio
        )
        try:
            with asyncio.Runner(loop_factory=_new_event_loop) as runner:
                runner.run(self._main())
        finally:
            provider.shutdown()
        if self._dead_tasks:
            raise SystemExit(1)

    def stop(self) -> None:
        """Ask a running service to drain and return."""
        self._stop.set()

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            running: list[asyncio.Task[None]] = []
            stack.callback(lambda: [task.cancel() for task in running])
            with suppress(_ToldToStop):
                await self._start(stack, lambda name, run: running.append(tasks.create_task(self._watched(name, run))))
                await self._serve()
            await stack.aclose()
            for task in running:
                task.cancel()

    async def _serve(self) -> None:
        settle_garbage_collector()
        gauge(SERVICE_READY).labels(self.name).set(1)
        log.info("ready", port=self.settings.http_port)
        await self._stop.wait()
        gauge(SERVICE_READY).labels(self.name).set(0)
        self._starting = "draining"
        log.info("draining")
        if self._front is not None:
            await self.clock.sleep(self.settings.farewell_s)

    async def _start(self, stack: AsyncExitStack, spawn: Callable[[str, Background], None]) -> None:
        server = self._server()
        if not self.settings.listen_when_ready:
            await server.start()
            stack.push_async_callback(server.stop)
        await self._open_stores(stack, spawn)
        await self._load_state(spawn)
        for drain in self._draining:
            stack.push_async_callback(drain)
        for name, run in self._background:
            spawn(name, run)
        if self._loops.loops:
            self._starting = "joining consumer groups"
            await self._once_there(self._loops.start)
            stack.push_async_callback(self._loops.stop)
        spawn("watchdog", self._watch)
        self._starting = ""
        await server.start()
        # Registered a second time, so that on the way down intake stops before anything that requests depend on.
        stack.push_async_callback(server.stop)

    def _server(self) -> HttpServer:
        app: Any = build_app(self._routes, live=self._live_problems, ready=self._ready_problems)
        if self._front is not None:
            app = self._front(serve_asgi(app))
        return HttpServer(app, self.settings.http_host, self.settings.http_port, rsgi=self._front is not None)

    async def _open_stores(self, stack: AsyncExitStack, spawn: Callable[[str, Background], None]) -> None:
        if self.database is not None:
            self._starting = "waiting for the database"
            await self._once_there(self.database.open)
            stack.push_async_callback(self.database.close)
        self._starting = "waiting for Kafka"
        for publisher in self._publishers:
            await self._once_there(publisher.start)
            stack.push_async_callback(publisher.stop)
        if self.database is not None:
            relay = OutboxRelay(self.database, self.publisher, self.clock)
            spawn("outbox relay", relay.run)
            stack.push_async_callback(relay.drain, RELAY_DRAIN_S)
            spawn("inbox sweep", self._sweep_inbox)

    async def _load_state(self, spawn: Callable[[str, Background], None]) -> None:
        for reader in self._readers:
            spawn("state reader", reader.run)
        for reader in self._readers:
            self._starting = f"reading {reader.topic}"
            await self._unless_stopped(reader.loaded.wait())

    async def _once_there(self, start: Background) -> None:
        """Start what needs a store, and wait for as long as the store is away; what else is wrong raises at once."""
        while True:
            try:
                return await start()
            except Exception as error:
                if not (error.retriable if isinstance(error, KafkaError) else is_unavailable(error)):
                    raise
                log.warning("store_away", starting=self._starting, error=type(error).__name__)
            await self._unless_stopped(self.clock.sleep(STORE_RETRY_S))

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait, but raise `_ToldToStop` as soon as the service is told to stop."""
        stop, awaited = asyncio.create_task(self._stop.wait()), asyncio.create_task(waiting)
        try:
            await asyncio.wait([stop, awaited], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            awaited.cancel()
        if self._stop.is_set():
            raise _ToldToStop

    async def _watched(self, name: str, run: Background) -> None:
        try:
            await run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.critical("background_task_died", task=name, exc_info=error)
            self._dead_tasks.append(name)
            self._stop.set()

    async def _watch(self) -> None:
        stuck_for = 0
        while True:
            before = self.clock.monotonic()
            await self.clock.sleep(WATCH_INTERVAL_S)
            self._lag_s = self.clock.monotonic() - before - WATCH_INTERVAL_S
            self._loops.measure_lag()
            stuck_for = stuck_for + 1 if self._loops.stuck() else 0
            if stuck_for * WATCH_INTERVAL_S >= STUCK_LIMIT_S:
                raise RuntimeError(f"consumers are stuck: {self._loops.stuck()}")
            self._database_problem = await self._ping_database()

    async def _ping_database(self) -> str | None:
        if self.database is None:
            return None
        try:
            await self.database.ping()
        except Exception as error:
            if not is_unavailable(error):
                raise
            return f"database: {type(error).__name__}"
        return None

    async def _sweep_inbox(self) -> None:
        while True:
            await self.clock.sleep(INBOX_SWEEP_INTERVAL_S)
            if self.database is not None:
                try:
                    log.info("inbox_swept", rows=await inbox.sweep(self.database))
                except Exception as error:
                    if not is_unavailable(error):
                        raise

    def _live_problems(self) -> list[str]:
        problems = [f"{name} died" for name in self._dead_tasks]
        if self._lag_s > LOOP_LAG_LIMIT_S:
            problems.append(f"the event loop was blocked for {self._lag_s:.1f} s")
        return problems + self._loops.stuck()

    def _ready_problems(self) -> list[str]:
        if self._starting:
            return [self._starting]
        database = [self._database_problem] if self._database_problem else []
        return [*(f"{name} died" for name in self._dead_tasks), *self._loops.halted(), *self._loops.stuck(), *database]


def settle_garbage_collector() -> None:
    """Take what is loaded out of the collector's rounds and make them rarer: a sixth of the CPU of a busy loop.

    A batch makes tens of thousands of short-lived objects and no cycles; the default of 700 would scan in vain.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    import uvloop  # noqa: PLC0415 (not on every platform; the standard loop would do there)

    return uvloop.new_event_loop()
