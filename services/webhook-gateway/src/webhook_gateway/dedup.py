"""The gateway's memory of what is durable already, in Redis: an optimisation, since every consumer's inbox decides.

Order matters (gateway.md §3.8): verify, look, publish, mark. Marking first would lose an event whose publish failed.
Must never refuse or delay a delivery because Redis is slow or away: it then remembers nothing, and says so in a metric.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

from chassis.clock import Clock
from chassis.redis import NoScriptError, Redis, RedisError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from webhook_gateway.metrics import DEDUP

log = logger(__name__)

# A look-up that takes longer than this is worth less than the record that it would save.
TIMEOUT_S: Final = 0.05
# After a failure nobody asks for this long, so that an outage costs one timeout, not one per delivery.
BREAK_S: Final = 1.0
MAX_BATCH: Final = 512
_PREFIX: Final = b"gw:seen:"
_HASH_BYTES: Final = 16
# How long a fingerprint is where it is written as text.
FINGERPRINT_CHARS: Final = 2 * _HASH_BYTES

# Looks up the first ARGV[1] keys and sets the others; one round trip for a whole tick of requests. SET NX keeps the
# first delivery of an event as the one that repeats are compared with.
_SCRIPT: Final = """
local looks = tonumber(ARGV[1])
for i = looks + 1, #KEYS do
  local at = 2 + (i - looks - 1) * 2
  redis.call('SET', KEYS[i], ARGV[at], 'NX', 'EX', ARGV[at + 1])
end
if looks == 0 then return {} end
local wanted = {}
for i = 1, looks do wanted[i] = KEYS[i] end
return redis.call('MGET', unpack(wanted))
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of an event: the delivery that brought it first, and the fingerprint of its body."""

    delivery: str
    fingerprint: bytes


def event_key(tenant: str, endpoint: str, event_id: str) -> bytes:
    """Return the name of an event: length-prefixed, so that no two of them can be spelled alike; never global."""
    text = f"{len(tenant)}:{tenant}{len(endpoint)}:{endpoint}{event_id}".encode("utf-8", "surrogatepass")
    return _PREFIX + hashlib.blake2b(text, digest_size=_HASH_BYTES).digest()


class DedupMemory:
    """Remembers events for as long as their provider may repeat them. Start `run` before use."""

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._looks: list[tuple[bytes, asyncio.Future[Seen | None]]] = []
        self._marks: list[tuple[bytes, bytes, int]] = []
        self._wake = asyncio.Event()
        self._broken_until = 0.0
        self._sha = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324 (how Redis names scripts)

    async def look(self, key: bytes) -> Seen | None:
        """Return what is known of an event; None when nothing is, or when Redis does not answer in time."""
        if self._clock.monotonic() < self._broken_until:
            counter(DEDUP).labels("skipped").inc()
            return None
        future: asyncio.Future[Seen | None] = asyncio.get_running_loop().create_future()
        self._looks.append((key, future))
        self._wake.set()
        return await future

    def mark(self, key: bytes, seen: Seen, lifetime_s: int) -> None:
        """Remember an event that is durable; soon, and without waiting."""
        if self._clock.monotonic() >= self._broken_until:
            self._marks.append((key, seen.fingerprint + bytes.fromhex(seen.delivery.replace("-", "")), lifetime_s))
            self._wake.set()

    async def run(self) -> None:
        """Serve look-ups and marks until cancelled: one round trip at a time, each for all that waited meanwhile."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._looks or self._marks:
                    await self._round()
        finally:
            self._forget(self._looks)

    async def _round(self) -> None:
        looks, self._looks = self._looks[:MAX_BATCH], self._looks[MAX_BATCH:]
        marks, self._marks = self._marks[:MAX_BATCH], self._marks[MAX_BATCH:]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._call(looks, marks)
        except (RedisError, OSError, TimeoutError) as error:
            self._broken_until = self._clock.monotonic() + BREAK_S
            counter(DEDUP).labels("unavailable").inc()
            log.warning("dedup_memory_away", error=type(error).__name__)
            # The events of this round and of those that waited are simply not known; the inboxes decide.
            waiting, self._looks, self._marks = looks + self._looks, [], []
            self._forget(waiting)
            return
        for (_, future), value in zip(looks, found, strict=True):
            if not future.done():
                future.set_result(_seen(value))

    async def _call(
        self, looks: list[tuple[bytes, asyncio.Future[Seen | None]]], marks: list[tuple[bytes, bytes, int]]
    ) -> list[bytes | None]:
        keys = [key for key, _ in looks] + [key for key, _, _ in marks]
        values = [part for _, value, lifetime_s in marks for part in (value, lifetime_s)]
        try:
            answer: Any = await cast(Any, self._redis.evalsha(self._sha, len(keys), *keys, len(looks), *values))
        except NoScriptError:
            answer = await cast(Any, self._redis.eval(_SCRIPT, len(keys), *keys, len(looks), *values))
        return list(answer)

    @staticmethod
    def _forget(looks: list[tuple[bytes, asyncio.Future[Seen | None]]]) -> None:
        for _, future in looks:
            if not future.done():
                future.set_result(None)


def fingerprint(data: bytes, sha256: str = "") -> bytes:
    """Return what two bodies of one event are compared by; `sha256` is its hexadecimal digest where that is known."""
    digest = bytes.fromhex(sha256) if sha256 else hashlib.sha256(data).digest()
    return digest[:_HASH_BYTES]


def _seen(value: bytes | None) -> Seen | None:
    if value is None or len(value) != 2 * _HASH_BYTES:
        return None
    return Seen(str(UUID(bytes=value[_HASH_BYTES:])), value[:_HASH_BYTES])
