"""A bare server: granian RSGI in a uvloop, an app and nothing else. What a request costs at least on this machine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server

from chassis.service import settle_garbage_collector


async def serve_until_terminated(app: Callable[[Any, Any], Awaitable[None]], port: int) -> None:
    """Serve an RSGI app on loopback until SIGTERM."""
    server = Server(
        app,
        port=port,
        interface=Interfaces.RSGI,
        websockets=False,
        log_enabled=False,
        backlog=1024,
        backpressure=20_000,
    )
    serving = asyncio.create_task(server.serve())
    settle_garbage_collector()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.stop()  # type: ignore[no-untyped-call]
    await serving
