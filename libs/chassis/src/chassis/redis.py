"""The one way to connect to Redis, which may vanish: and every use says whether it then fails open.

Must never hold the only copy of anything.
"""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

__all__ = ["NoScriptError", "Redis", "RedisError", "connect"]

CONNECT_TIMEOUT_S: Final = 0.25
HEALTH_CHECK_S: Final = 30
# Calls are batched where they are frequent, so a few connections carry everything.
MAX_CONNECTIONS: Final = 8


def connect(url: str) -> Redis:
    """Return a client; it connects on first use. Every call raises `redis.exceptions.RedisError` or `OSError`.

    Every caller bounds its own wait with `asyncio.timeout`: the client's `socket_timeout` costs a task and a timer for
    each write. No retries, since whoever asks has a deadline and a better answer than waiting.
    """
    return Redis.from_url(
        url,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        health_check_interval=HEALTH_CHECK_S,
        max_connections=MAX_CONNECTIONS,
        retry=Retry(NoBackoff(), 0),
    )
