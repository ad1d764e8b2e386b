"""Processes under test: started, waited for, measured and ended."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

READY_PATIENCE_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A server process under test."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used so far, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def rss_bytes(self) -> int:
        """Return the resident memory now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, with what it says in `log`."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            command, env=os.environ | environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


async def ready(url: str, started: subprocess.Popen[bytes] | None = None, accept: tuple[int, ...] = (200,)) -> None:
    """Wait until a URL answers with one of these statuses, from the process `started` where two share a port.

    Raises `RuntimeError` when the process ends, or after `READY_PATIENCE_S`.
    """
    deadline = time.monotonic() + READY_PATIENCE_S
    # A new connection each time, so that the kernel may choose the other process of a shared port.
    async with httpx.AsyncClient(headers={"connection": "close"}) as client:
        while time.monotonic() < deadline:
            if started is not None and started.poll() is not None:
                raise RuntimeError(f"{started.args!r} ended with {started.returncode}")
            try:
                answer = await client.get(url)
                if answer.status_code in accept and (started is None or _from(answer, started.pid)):
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} was not ready within {READY_PATIENCE_S:.0f} s")


def _from(answer: httpx.Response, pid: int) -> bool:
    """Tell whether a process gave an answer; one that does not say whose it is has its port for itself."""
    says = answer.json().get("pid") if answer.headers.get("content-type") == "application/json" else None
    return says in (None, pid)
