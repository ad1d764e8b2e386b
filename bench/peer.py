"""A provider that costs next to nothing: the sandbox's answer to one operation, 20 ms after the request.

granian RSGI without state, judgement, signatures or metrics. The sandbox takes several times the CPU of the path that
is measured, and both share the machine; `bench.outbound --sandbox` takes it all the same.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import orjson
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

from chassis.service import settle_garbage_collector


async def main(port: int, latency_s: float) -> None:
    """Serve until SIGTERM."""

    async def app(_scope: Any, exchange: Any) -> None:
        body = await exchange()
        document = orjson.loads(body) if body else {}
        await asyncio.sleep(latency_s)
        answer = {"status": "success", "message": "Event processed", "dedup_key": document.get("dedup_key", "")}
        exchange.response_bytes(202, [("content-type", "application/json")], orjson.dumps(answer))

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


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
