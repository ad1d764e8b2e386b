"""Quota in Redis: one script takes from all buckets of a path or from none, another one tells of a 429.

Must never retry a script that may have run, and never hold the only copy of a policy.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from chassis.redis import NoScriptError, Redis
from chassis.telemetry.metrics import bound_counter
from contracts.events.health import RESERVES, CallClass
from sync_worker.limiter.metrics import STORE_COMMANDS, STORE_TRIPS
from sync_worker.limiter.policies import RANKS, CallPath

TIMEOUT_S: Final = 0.05
LEASE_S: Final = 0.25
EMERGENCY_RANK: Final = -1
_TAKE: Final = (Path(__file__).parent / "take.lua").read_text()
_THROTTLE: Final = (Path(__file__).parent / "throttle.lua").read_text()
_TURN: Final = (Path(__file__).parent / "turn.lua").read_text()
_MICRO: Final = 1_000_000


@dataclass(slots=True)
class Ask:
    """What one worker wants of one path for one class: `want` units, at least `cost`; `want` 0 only tells.

    `need` of them are for calls that wait already: what is not granted of these is held against lower classes.
    `back` are units of an older lease, granted at `back_at` (the store's microseconds), that were not spent. `owed` are
    units by window that were spent without asking. `known` is by window what the last reply said, sent after a flush;
    for a concurrent window the slots that this worker holds, always sent; `told` says that it repeats what was known.
    """

    path: CallPath
    call_class: CallClass
    cost: float
    want: float
    need: float = 0.0
    emergency: bool = False
    back: float = 0.0
    back_at: int = 0
    retry_delta: int = 0
    hello: bool = False
    known: Sequence[str] = ()
    owed: Sequence[float] = ()
    told: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What the store said. Times are in microseconds of the store's clock; `known` is by window of the path."""

    granted: float
    wait_s: float
    route_version: int
    born: int
    healing: bool
    workers: int
    retry_tokens: int
    lease_end: int
    now: int
    known: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Throttle:
    """A 429: the bucket to block, for how long, and how long ago the call was sent."""

    scope: str
    bucket: str
    block_s: float
    age_s: float


@dataclass(frozen=True, slots=True)
class WindowTurn:
    """Where a fixed window of a bucket turns: between two instants of the store's clock, in seconds.

    `way_s` is how long a call may be under way, from its grant until the provider counts it.
    """

    scope: str
    bucket: str
    seconds: float
    earliest: float
    latest: float
    way_s: float


Notice = Throttle | WindowTurn


@dataclass(slots=True)
class _Script:
    """A script and the name that Redis gives it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()  # noqa: S324 (how Redis names scripts)


class QuotaStore:
    """The shared quota. `time_us` replaces the server's clock, for tests that move time."""

    def __init__(
        self, redis: Redis, worker: str, *, timeout_s: float = TIMEOUT_S, time_us: Callable[[], int] | None = None
    ) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._worker = worker
        self._time_us = time_us
        self._take = _Script(_TAKE)
        self._throttle = _Script(_THROTTLE)
        self._turn = _Script(_TURN)
        # Static parts of the arguments; a path's limits change a few times a day.
        self._windows: dict[tuple[CallPath, CallClass], tuple[int, list[list[str]], list[int]]] = {}
        self._keys: dict[CallPath, list[str]] = {}

    async def exchange(self, asks: Sequence[Ask], notices: Sequence[Notice] = ()) -> list[Reply]:
        """Send everything in one round trip and return the replies to `asks`.

        Notices are told first. Raises `RedisError`, `OSError` or `TimeoutError`; the scripts may then have run.
        """
        calls = [self._notice_call(one) for one in notices] + [self._take_call(one) for one in asks]
        bound_counter(STORE_COMMANDS).inc(len(calls))
        try:
            async with asyncio.timeout(self._timeout_s):
                answers = await self._run(calls)
        except BaseException:
            bound_counter(STORE_TRIPS, "failed").inc()
            raise
        bound_counter(STORE_TRIPS, "answered").inc()
        return [_reply(answer) for answer in answers[len(notices) :]]

    async def _run(self, calls: list[tuple[_Script, list[Any]]]) -> list[Any]:
        if len(calls) == 1:
            script, arguments = calls[0]
            try:
                return [await cast(Any, self._redis.evalsha(script.sha, *arguments))]
            except NoScriptError:
                return [await cast(Any, self._redis.eval(script.text, *arguments))]
        answers = await self._pipeline(calls)
        # A script that Redis does not know has not run, so these may be sent again.
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for script in {id(calls[at][0]): calls[at][0] for at in unknown}.values():
                await cast(Any, self._redis.script_load(script.text))
            again = await self._pipeline([calls[at] for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def _pipeline(self, calls: list[tuple[_Script, list[Any]]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for script, arguments in calls:
                pipe.evalsha(script.sha, *arguments)
            return list(await pipe.execute(raise_on_error=False))

    def _now(self) -> str:
        return "" if self._time_us is None else str(self._time_us())

    def _take_call(self, ask: Ask) -> tuple[_Script, list[Any]]:
        path = ask.path
        windows, slots = self._static(path, ask.call_class)
        keys = self._keys[path]
        rank = EMERGENCY_RANK if ask.emergency else RANKS[ask.call_class]
        claim = path.names[-1][1]
        arguments: list[Any] = [len(keys), *keys, self._worker, rank, ask.cost, ask.want, ask.back, ask.back_at]
        arguments += [ask.retry_delta, "1" if ask.hello else "", claim, int(LEASE_S * _MICRO)]
        arguments += [RESERVES[ask.call_class], self._now(), ask.need, len(path.buckets)]
        at = 0
        for count, static in zip(slots, windows, strict=True):
            arguments.append(count)
            for start in range(0, len(static), 7):
                arguments += static[start : start + 7]
                arguments.append(ask.known[at] if at < len(ask.known) else "")
                arguments.append(ask.owed[at] if at < len(ask.owed) else 0)
                at += 1
        return self._take, arguments

    def _static(self, path: CallPath, call_class: CallClass) -> tuple[list[list[str]], list[int]]:
        place = (path, call_class)
        known = self._windows.get(place)
        if known is None or known[0] != path.version:
            windows = [
                [
                    part
                    for window in bucket.windows
                    for part in (
                        window.shape,
                        window_id(window.shape, window.seconds),
                        repr(window.limit),
                        repr(window.seconds * _MICRO),
                        repr(window.burst),
                        repr(bucket.reserve(window, call_class)),
                        repr(bucket.trim.get(call_class, 0.0)),
                    )
                ]
                for bucket in path.buckets
            ]
            known = self._windows[place] = (path.version, windows, [len(bucket.windows) for bucket in path.buckets])
            self._keys[path] = _keys(path)
        return known[1], known[2]

    def _notice_call(self, notice: Notice) -> tuple[_Script, list[Any]]:
        key = state_key(notice.scope, notice.bucket)
        if isinstance(notice, Throttle):
            return self._throttle, [1, key, int(notice.block_s * _MICRO), int(notice.age_s * _MICRO), self._now()]
        times = (notice.seconds, notice.earliest, notice.latest, notice.way_s)
        name = window_id("fixed", notice.seconds)
        return self._turn, [1, key, name, *(round(one * _MICRO) for one in times), self._now()]


def window_id(shape: str, seconds: float) -> str:
    """Return how a window's fields are named in its bucket's state."""
    return f"{shape[0]}{seconds:g}"


def state_key(scope: str, bucket: str) -> str:
    """Return the key of a bucket's state; all keys of a provider in one mode share one slot of a cluster."""
    return f"patchbay:quota:{{{scope}}}:state:{bucket}"


def version_key(scope: str) -> str:
    """Return the key under which the health monitor counts the changes of a provider's routes in one mode."""
    return f"patchbay:mirror:{{{scope}}}:version"


def _keys(path: CallPath) -> list[str]:
    scope = path.scope
    base = f"patchbay:quota:{{{scope}}}:"
    keys = [version_key(scope), base + "meta", base + "workers"]
    for bucket in path.buckets:
        keys += [state_key(scope, bucket.name), f"{base}wants:{bucket.name}", f"{base}held:{bucket.name}"]
    return keys


def _reply(answer: Any) -> Reply:
    granted, wait, version, born, healing, workers, retry, lease_end, now, known = answer
    return Reply(
        granted / 1000,
        wait / _MICRO,
        version,
        born,
        bool(healing),
        workers,
        retry,
        lease_end,
        now,
        tuple(one.decode() if isinstance(one, bytes) else one for one in known),
    )
