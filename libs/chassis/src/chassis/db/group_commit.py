"""Many small changes in one transaction: whoever waits for a commit shares it with all who wait at the same time.

A commit costs a disk write whatever it holds, so a service that answers each change by itself is bound by it. Must
never answer before the commit is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Generic, TypeVar

from chassis.clock import Clock, SystemClock

_Unit = TypeVar("_Unit")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A batch beyond this holds its locks for longer than its callers want to wait.
MAX_BATCH: Final = 200
# As many commits are under way at once: the disk writes those of one moment together.
WIDTH: Final = 3
# While others are under way, the next one waits this much longer for company: under load shares are larger by what
# comes meanwhile, and an item that comes alone is never held up.
GATHER_S: Final = 0.004


class GroupCommit(Generic[_Unit, _Item, _Result]):
    """Applies items in batches, up to `WIDTH` at a time; `apply` returns a result per item, in order.

    `unit` opens what a batch runs in and commits when it closes: `Database.unit_of_work`, or `Database.connection` for
    a single statement, which is a transaction by itself and spares two round trips.
    """

    def __init__(
        self,
        unit: Callable[[], AbstractAsyncContextManager[_Unit]],
        apply: Callable[[_Unit, Sequence[_Item]], Awaitable[Sequence[_Result]]],
        clock: Clock | None = None,
    ) -> None:
        self._unit = unit
        self._apply = apply
        self._clock = clock or SystemClock()
        self._waiting: list[tuple[_Item, asyncio.Future[_Result]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False

    async def submit(self, item: _Item) -> _Result:
        """Return the item's result once it is durable; raises what the batch raised, which then left nothing behind."""
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start()
        return await future

    def _start(self) -> None:
        if self._waiting and not self._gathering and len(self._tasks) < WIDTH:
            self._gathering = True
            task = asyncio.create_task(self._run(alone=not self._tasks))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()

    async def _run(self, *, alone: bool) -> None:
        batch: list[tuple[_Item, asyncio.Future[_Result]]] = []
        try:
            try:
                if not alone and len(self._waiting) < MAX_BATCH:
                    await self._clock.sleep(GATHER_S)
            finally:
                # Also when it is cancelled while it gathers: whoever waits is told below.
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                self._gathering = False
            async with self._unit() as unit:
                results = await self._apply(unit, [item for item, _ in batch])
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else ConnectionError("stopped"))
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
