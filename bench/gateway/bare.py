"""The baseline: what a webhook costs at least here. granian RSGI, one HMAC, one idempotent produce, nothing else.

No ids, key, lane, limits, dedup, metrics or traces, and no bound on anything: a yardstick, not a gateway.
"""

from __future__ import annotations

import hmac
import sys
from typing import Any

import uvloop
from aiokafka import AIOKafkaProducer

from bench.serving import serve_until_terminated


async def main(bootstrap: str, topic: str, port: int, secret: str) -> None:
    """Serve until SIGTERM."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=2, max_batch_size=131_072
    )
    await producer.start()
    key = secret.encode()

    async def app(scope: Any, exchange: Any) -> None:
        body = await exchange()
        signature = scope.headers.get("stripe-signature") or ""
        stamp, _, digest = signature.partition(",v1=")
        expected = hmac.digest(key, stamp[2:].encode() + b"." + body, "sha256").hex()
        if not hmac.compare_digest(expected, digest):
            exchange.response_empty(401, [])
            return
        await (await producer.send(topic, body, key=digest[:16].encode()))
        exchange.response_empty(200, [])

    await serve_until_terminated(app, port)
    await producer.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
