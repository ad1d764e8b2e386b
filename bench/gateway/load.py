"""The load generator: a process of its own that sends ready-made requests over keep-alive connections.

Open loop: every request has an intended time, and its latency counts from there, so that a stall of the server is not
hidden by a sender that waits politely (coordinated omission). With rate 0 it is closed loop: as fast as answers come.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

import uvloop

# A request without an answer after this long counts as failed, with status 0.
PATIENCE_S = 30.0
HEALTH_CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as bytes; `group` is what its latency is reported under."""

    raw: bytes
    group: str


@dataclass
class Plan:
    """What to send: `rate` per second (0 is closed loop), over how many connections, in which order.

    With `others` it is a load balancer, too: new connections go to those of all ports that say they are ready.
    """

    host: str
    port: int
    connections: int
    rate: float
    requests: Sequence[Request]
    others: Sequence[int] = ()


@dataclass
class Outcome:
    """What came back: statuses and latencies in seconds by group, how long the whole run took, and every answer."""

    seconds: float = 0.0
    statuses: dict[str, dict[int, int]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)
    answered: list[tuple[int, int, float]] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.current: tuple[int, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def send(self, index: int, intended: float, raw: bytes) -> None:
        """Send a request."""
        self.current = (index, intended)
        if self._transport is not None:
            self._transport.write(raw)

    def data_received(self, data: bytes) -> None:
        """Read one answer."""
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        status = int(self._buffer[9:12])
        closing = b"connection: close" in head
        self._buffer = b""
        self._run.answered(self, status)
        if closing and self._transport is not None:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell the run."""
        self._run.lost(self)


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._idle: deque[Connection] = deque()
        self._due: deque[tuple[int, float]] = deque()
        self._next = 0
        self._closed = 0
        self._ports = cycle([plan.port])
        self._left = len(plan.requests)
        self._done = asyncio.get_running_loop().create_future()
        self.outcome = Outcome()
        self._statuses: dict[str, Counter[int]] = {}

    async def go(self) -> Outcome:
        """Connect, send everything, and return when everything is answered or has failed."""
        balancing = asyncio.create_task(self._balance())
        await asyncio.gather(*(self._connect() for _ in range(self._plan.connections)))
        started = time.perf_counter()
        if self._plan.rate:
            await self._open_loop(started)
        else:
            for connection in list(self._idle):
                self._feed(connection)
        async with asyncio.timeout(PATIENCE_S + len(self._plan.requests) / max(self._plan.rate, 100)):
            await self._done
        balancing.cancel()
        self.outcome.seconds = time.perf_counter() - started
        self.outcome.statuses = {group: dict(counts) for group, counts in self._statuses.items()}
        return self.outcome

    async def _balance(self) -> None:
        """Ask which ports are ready, as a load balancer's health check does."""
        ports = [self._plan.port, *self._plan.others]
        while len(ports) > 1:
            answers = await asyncio.gather(*(_is_ready(self._plan.host, port) for port in ports))
            found = [port for port, yes in zip(ports, answers, strict=True) if yes]
            self._ports = cycle(found or ports)
            await asyncio.sleep(HEALTH_CHECK_S)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), self._plan.host, next(self._ports))
        self._idle.append(connection)

    async def _open_loop(self, started: float) -> None:
        total, rate = len(self._plan.requests), self._plan.rate
        while self._next < total:
            now = time.perf_counter() - started
            while self._next < total and self._next / rate <= now:
                self._due.append((self._next, started + self._next / rate))
                self._next += 1
            while self._due and self._idle:
                self._send(self._idle.popleft(), *self._due.popleft())
            self._dial(len(self._due))
            await asyncio.sleep(0.0005)

    def _feed(self, connection: Connection) -> None:
        """Give a free connection its next request, if there is one."""
        if self._due:
            self._send(connection, *self._due.popleft())
        elif not self._plan.rate and self._next < len(self._plan.requests):
            self._next += 1
            self._send(connection, self._next - 1, time.perf_counter())
        else:
            self._idle.append(connection)

    def _send(self, connection: Connection, index: int, intended: float) -> None:
        connection.send(index, intended, self._plan.requests[index].raw)

    def answered(self, connection: Connection, status: int) -> None:
        """Take an answer and give the connection its next request."""
        self._count(connection, status)
        self._feed(connection)

    def lost(self, connection: Connection) -> None:
        """Take note of a connection that ended; its request has failed."""
        if connection.current is not None:
            self._count(connection, 0)
        elif connection in self._idle:
            self._idle.remove(connection)
        self._closed += 1
        self._dial(len(self._due) if self._plan.rate else self._closed)

    def _dial(self, wanted: int) -> None:
        """Replace ended connections, as a sender's HTTP client does: when it has something to send, and not before."""
        for _ in range(min(wanted, self._closed)):
            self._closed -= 1
            asyncio.get_running_loop().create_task(self._replace())

    async def _replace(self) -> None:
        while self._left:
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(0.05)
            else:
                self._feed(self._idle.pop())
                return

    def _count(self, connection: Connection, status: int) -> None:
        if connection.current is None:
            return
        (index, intended), connection.current = connection.current, None
        group = self._plan.requests[index].group
        self._statuses.setdefault(group, Counter())[status] += 1
        took = time.perf_counter() - intended
        self.outcome.latencies.setdefault(group, []).append(took)
        self.outcome.answered.append((index, status, took))
        self._left -= 1
        if not self._left and not self._done.done():
            self._done.set_result(None)


async def _is_ready(host: str, port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"GET /ready HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        first = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in first


async def run(plan: Plan) -> Outcome:
    """Run a plan in this process."""
    return await Run(plan).go()


async def run_in_process(plan: Plan, folder: Path, *, niceness: int = 0) -> Outcome:
    """Run a plan in a process of its own, nicer than others if wanted; raises `RuntimeError` when that failed."""
    given, result = folder / f"plan-{uuid.uuid4().hex}", folder / f"outcome-{uuid.uuid4().hex}"
    await asyncio.to_thread(given.write_bytes, pickle.dumps(plan))
    command = ["nice", "-n", str(niceness), sys.executable, "-m", "bench.gateway.load", str(given), str(result)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.to_thread(given.unlink)
    if process.returncode:
        raise RuntimeError(f"the load generator failed: {errors.decode()[-500:]}")
    raw = json.loads(await asyncio.to_thread(result.read_text))
    raw["statuses"] = {
        group: {int(status): count for status, count in counts.items()} for group, counts in raw["statuses"].items()
    }
    raw["answered"] = [(index, status, took) for index, status, took in raw["answered"]]
    return Outcome(**raw)


def main() -> None:
    """Run the pickled plan of the first argument; the outcome goes as JSON to the second."""
    plan: Plan = pickle.loads(Path(sys.argv[1]).read_bytes())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(run(plan))
    Path(sys.argv[2]).write_text(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
