"""How many ingest processes share a rate limit: each says that it lives, in Redis, and counts the others.

Without Redis nobody can be counted: every process then allows the whole limit, which fails open, and says so.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Final, cast

from chassis.clock import Clock
from chassis.redis import Redis, RedisError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from webhook_gateway.limits import RateLimits
from webhook_gateway.metrics import FLEET, LIMITER_OPEN

log = logger(__name__)

BEAT_S: Final = 2.0
# A process that was silent for this long has left.
GONE_AFTER_S: Final = 10.0
TIMEOUT_S: Final = 0.5
_KEY: Final = "gw:fleet"


class Fleet:
    """Keeps `RateLimits.processes` true."""

    def __init__(self, redis: Redis, limits: RateLimits, clock: Clock) -> None:
        self._redis = redis
        self._limits = limits
        self._clock = clock
        self._name = uuid.uuid4().hex

    async def run(self) -> None:
        """Beat until cancelled, then sign off."""
        try:
            while True:
                await self.beat()
                await self._clock.sleep(BEAT_S)
        finally:
            await self._leave()

    async def beat(self) -> None:
        """Say that this process lives and count those that do."""
        now = self._clock.now().timestamp()
        try:
            async with asyncio.timeout(TIMEOUT_S), self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(_KEY, {self._name: now})
                pipe.zremrangebyscore(_KEY, "-inf", now - GONE_AFTER_S)
                pipe.zcard(_KEY)
                pipe.expire(_KEY, int(10 * GONE_AFTER_S))
                count = (await pipe.execute())[2]
        except (RedisError, OSError, TimeoutError) as error:
            if self._limits.processes != 1:
                log.warning("fleet_not_counted", error=type(error).__name__)
            self._limits.processes = 1
            gauge(LIMITER_OPEN).set(1)
            return
        self._limits.processes = max(1, count)
        gauge(FLEET).set(self._limits.processes)
        gauge(LIMITER_OPEN).set(0)

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await cast(Any, self._redis.zrem(_KEY, self._name))
        except (RedisError, OSError, TimeoutError):
            log.info("fleet_sign_off_failed")
