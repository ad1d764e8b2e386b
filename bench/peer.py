"""A provider that costs next to nothing: the sandbox's answer to one operation, 20 ms after the request.

granian RSGI without state, judgement, signatures or metrics. The sandbox takes several times the CPU of the path that
is measured, and both share the machine; `bench.outbound --sandbox` takes it all the same.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import orjson
import uvloop

from bench.serving import serve_until_terminated


async def main(port: int, latency_s: float) -> None:
    """Serve until SIGTERM."""

    async def app(_scope: Any, exchange: Any) -> None:
        body = await exchange()
        document = orjson.loads(body) if body else {}
        await asyncio.sleep(latency_s)
        answer = {"status": "success", "message": "Event processed", "dedup_key": document.get("dedup_key", "")}
        exchange.response_bytes(202, [("content-type", "application/json")], orjson.dumps(answer))

    await serve_until_terminated(app, port)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), float(sys.argv[2])))
