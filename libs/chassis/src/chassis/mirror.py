"""Records of one owner that every process must follow within milliseconds: kept in Redis, fenced by epochs, announced.

Per group: a hash of records (`<generation> <counter> <value>`) and a version that grows with every change, so that any
reply which carries the version reveals a lost announcement. Must never be the only copy: the owner holds its records in
memory and refills Redis after a flush; without Redis, owners and readers go on with what they have (fails open).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from chassis.clock import Clock
from chassis.redis import NoScriptError, Redis, RedisError
from chassis.telemetry.logs import logger
from contracts.errors import Invalid

log = logger(__name__)

Epoch = tuple[int, int]
"""(owner generation, counter), compared lexicographically."""

CHANNEL: Final = "patchbay:mirror:announcements"
GROUPS: Final = "patchbay:mirror:groups"
TIMEOUT_S: Final = 0.25
# How often an owner looks whether Redis still has its records, and a reader whether it missed an announcement.
REPAIR_S: Final = 1.0
# A reader polls for announcements in turns this long, so that it can look at versions in between.
_LISTEN_S: Final = 0.5
_RETRY_S: Final = 0.25
_AWAY: Final = (RedisError, OSError, TimeoutError)

# KEYS: records, version. ARGV: key, generation, counter, value, group. Returns {what became of it, version}: 1 written,
# 0 lost to a greater epoch, 2 there already.
_SCRIPT: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
local generation, counter = tonumber(ARGV[2]), tonumber(ARGV[3])
if known then
  local g, c = string.match(known, '^(%d+) (%d+) ')
  g, c = tonumber(g), tonumber(c)
  if g > generation or (g == generation and c > counter) then
    return {0, redis.call('GET', KEYS[2])}
  elseif g == generation and c == counter then
    return {2, redis.call('GET', KEYS[2])}
  end
end
local record = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
redis.call('HSET', KEYS[1], ARGV[1], record)
local version = redis.call('INCR', KEYS[2])
redis.call('PUBLISH', ARGV[6], ARGV[5] .. ' ' .. ARGV[1] .. ' ' .. version .. ' ' .. record)
return {1, version}
"""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One record as it stands in the mirror."""

    group: str
    key: str
    epoch: Epoch
    value: bytes


Apply = Callable[[Mirrored], None]


def records_key(group: str) -> str:
    """Return the hash with a group's records; in the same cluster slot as its version."""
    return f"patchbay:mirror:{{{group}}}:records"


def version_key(group: str) -> str:
    """Return the key with a group's version; for scripts that hand it on with their own reply."""
    return f"patchbay:mirror:{{{group}}}:version"


async def version(redis: Redis, group: str) -> int:
    """Return a group's version, 0 for a group without records. Raises `RedisError`, `OSError` or `TimeoutError`."""
    async with asyncio.timeout(TIMEOUT_S):
        return int(await redis.get(version_key(group)) or 0)


async def read_all(redis: Redis, group: str) -> dict[str, Mirrored]:
    """Return a group's records by key. Raises `RedisError`, `OSError` or `TimeoutError`."""
    async with asyncio.timeout(TIMEOUT_S):
        found: dict[bytes, bytes] = await cast(Any, redis.hgetall(records_key(group)))
    return {key.decode(): _parsed(group, key.decode(), record) for key, record in found.items()}


def _parsed(group: str, key: str, record: bytes) -> Mirrored:
    generation, count, value = record.split(b" ", 2)
    return Mirrored(group, key, (int(generation), int(count)), value)


class MirrorOwner:
    """Writes the records of one owner. `put` never waits; `run` must be running for anything to leave.

    `away` tells whether Redis took nothing at the last try; `lost` counts records that a greater epoch shut out.
    """

    def __init__(self, redis: Redis, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._latest: dict[tuple[str, str], Mirrored] = {}
        self._unsent: dict[tuple[str, str], Mirrored] = {}
        self._versions: dict[str, int] = {}
        self._wake = asyncio.Event()
        self.away = False
        self.lost = 0
        self._sha = hashlib.sha1(_SCRIPT.encode()).hexdigest()  # noqa: S324 (how Redis names scripts)

    def put(self, group: str, key: str, epoch: Epoch, value: bytes) -> None:
        """Make a record the current one, and announce it as soon as Redis takes it; a smaller epoch changes nothing.

        Raises `Invalid` (`bad_mirror_key`) for a group or key with a space.
        """
        if " " in group or " " in key:
            raise Invalid("bad_mirror_key", "a group or key of the mirror has no spaces", field="key")
        known = self._latest.get((group, key))
        if known is None or epoch > known.epoch:
            self._latest[group, key] = self._unsent[group, key] = Mirrored(group, key, epoch, value)
            self._wake.set()

    def forget(self, group: str, key: str) -> None:
        """Stop refilling a record that another process owns from now on."""
        self._latest.pop((group, key), None)
        self._unsent.pop((group, key), None)

    async def run(self) -> None:
        """Write what `put` left, at once; refill what a flush took, within a second. Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_RETRY_S if self.away else REPAIR_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.settle()

    async def settle(self) -> None:
        """Write everything that is unsent and refill what is missing, once. Never raises for Redis."""
        try:
            if not self._unsent:
                await self._look_for_losses()
            await self._send()
        except _AWAY as error:
            if not self.away:
                log.warning("mirror_away", role="owner", error=type(error).__name__)
            self.away = True
        else:
            self.away = False

    async def _send(self) -> None:
        while self._unsent:
            place, record = next(iter(self._unsent.items()))
            outcome, group_version = await self._write(record)
            # A write makes the version grow: one that did not was counted from zero again.
            if group_version < self._versions.get(record.group, 0) + (outcome == "written"):
                self._refill({record.group})
            self._versions[record.group] = group_version
            if outcome == "lost":
                self.lost += 1
                log.warning("mirror_record_lost", group=record.group, key=record.key, epoch=record.epoch)
            # A newer one may have been put while this one was on its way.
            if self._unsent.get(place) is record:
                del self._unsent[place]

    async def _write(self, record: Mirrored) -> tuple[str, int]:
        keys = (records_key(record.group), version_key(record.group))
        values = (record.key, *record.epoch, record.value, record.group, CHANNEL)
        async with asyncio.timeout(TIMEOUT_S):
            await cast(Any, self._redis.sadd(GROUPS, record.group))
            try:
                answer: Any = await cast(Any, self._redis.evalsha(self._sha, len(keys), *keys, *values))
            except NoScriptError:
                answer = await cast(Any, self._redis.eval(_SCRIPT, len(keys), *keys, *values))
        return ("lost", "written", "same")[int(answer[0])], int(answer[1] or 0)

    async def _look_for_losses(self) -> None:
        """Put the records of a group on their way again when its version is below what we left: a flush or a restart.

        Without a single record of ours there is nothing to lose.
        """
        groups = sorted({group for group, _ in self._latest})
        found = await _versions(self._redis, groups)
        self._refill({group for group in groups if found[group] < self._versions.get(group, 0)})

    def _refill(self, flushed: set[str]) -> None:
        if flushed:
            log.warning("mirror_refilled", groups=len(flushed))
            self._unsent |= {place: record for place, record in self._latest.items() if place[0] in flushed}


class MirrorSubscriber:
    """Follows all groups: `apply` gets every record whose epoch is greater than the last one of its place.

    Connects again by itself, and then reads everything once more; looks for lost announcements every second, and at
    once where `noticed` says so. `loaded` is set once all was read; `away` tells whether Redis is out of reach,
    and what was applied stays in force.
    """

    def __init__(self, redis: Redis, clock: Clock, apply: Apply) -> None:
        self._redis = redis
        self._clock = clock
        self._apply = apply
        self._epochs: dict[tuple[str, str], Epoch] = {}
        self._versions: dict[str, int] = {}
        self._stale: set[str] = set()
        self._repair = asyncio.Event()
        self.loaded = asyncio.Event()
        self.away = False

    def noticed(self, group: str, group_version: int) -> None:
        """Take note of a group's version that came with another reply; reads the group again if it is not ours."""
        if group_version != self._versions.get(group, 0):
            self._stale.add(group)
            self._repair.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._follow()
            except _AWAY as error:
                self._note_away(error)
            await self._clock.sleep(_RETRY_S)

    async def _follow(self) -> None:
        """Listen and repair until one of both fails; raises what it failed of.

        No task group: when a child fails while it is being cancelled, the cancellation gets lost (Python 3.11).
        """
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_repaired())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _listen(self) -> None:
        # Closed without a word to Redis, which may be gone.
        async with self._redis.pubsub() as pubsub:
            async with asyncio.timeout(2 * TIMEOUT_S):
                await pubsub.subscribe(CHANNEL)
            # Subscribed first, so that nothing falls between the reading and the listening.
            await self._read_groups(await self._known_groups())
            self.away = False
            self.loaded.set()
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_S)
                if message is not None:
                    self._announced(message["data"])

    def _announced(self, data: bytes) -> None:
        group, key, number, record = data.split(b" ", 3)
        name, announced = group.decode(), int(number)
        if announced == self._versions.get(name, 0) + 1:
            self._versions[name] = announced
        elif announced > self._versions.get(name, 0):
            self.noticed(name, announced)
        self._take(_parsed(name, key.decode(), record))

    async def _keep_repaired(self) -> None:
        while True:
            try:
                async with asyncio.timeout(REPAIR_S):
                    await self._repair.wait()
            except TimeoutError:
                groups = await self._known_groups()
                found = await _versions(self._redis, groups)
                self._stale |= {group for group in groups if found[group] != self._versions.get(group, 0)}
            self._repair.clear()
            stale, self._stale = self._stale, set()
            await self._read_groups(stale)

    async def _known_groups(self) -> set[str]:
        async with asyncio.timeout(TIMEOUT_S):
            found: set[bytes] = await cast(Any, self._redis.smembers(GROUPS))
        return {name.decode() for name in found}

    async def _read_groups(self, groups: Iterable[str]) -> None:
        for group in sorted(groups):
            # The version first: a record that is written in between is then read twice, and never missed.
            found = await version(self._redis, group)
            for record in (await read_all(self._redis, group)).values():
                self._take(record)
            self._versions[group] = found

    def _take(self, record: Mirrored) -> None:
        place = record.group, record.key
        if record.epoch > self._epochs.get(place, (-1, -1)):
            self._epochs[place] = record.epoch
            self._apply(record)

    def _note_away(self, error: BaseException) -> None:
        if not self.away:
            log.warning("mirror_away", role="subscriber", error=type(error).__name__)
        self.away = True


async def _versions(redis: Redis, groups: Iterable[str]) -> dict[str, int]:
    names = list(groups)
    if not names:
        return {}
    async with asyncio.timeout(TIMEOUT_S), redis.pipeline(transaction=False) as pipe:
        for group in names:
            pipe.get(version_key(group))
        found = await pipe.execute()
    return {group: int(value or 0) for group, value in zip(names, found, strict=True)}
