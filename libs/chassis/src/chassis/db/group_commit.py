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
# Who does not wait alone waits this much longer for others: under load a share is then larger by what comes meanwhile,
# and a single item is never held up.
GATHER_S: Final = 0.004


class GroupCommit(Generic[_Unit, _Item, _Result]):
    """Applies items in batches; `apply` returns a result per item, in order.

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
        self._running: asyncio.Task[None] | None = None

    async def submit(self, item: _Item) -> _Result:
        """Return the item's result once it is durable; raises what the batch raised, which then left nothing behind."""
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        shared = False
        while self._waiting:
            if shared and len(self._waiting) < MAX_BATCH:
                await self._clock.sleep(GATHER_S)
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            shared = len(batch) > 1
            try:
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
