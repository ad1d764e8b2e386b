"""Many small changes in one transaction: whoever waits for a commit shares it with all who wait at the same time.

A commit costs a disk write whatever it holds, so a service that answers each change by itself is bound by it. Must
never answer before the commit is durable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from chassis.db.database import Database, UnitOfWork

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A batch beyond this holds its locks for longer than its callers want to wait.
MAX_BATCH: Final = 200


class GroupCommit(Generic[_Item, _Result]):
    """Applies items in batches, one transaction each; `apply` returns a result per item, in order."""

    def __init__(
        self, database: Database, apply: Callable[[UnitOfWork, Sequence[_Item]], Awaitable[Sequence[_Result]]]
    ) -> None:
        self._database = database
        self._apply = apply
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
        while self._waiting:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            try:
                async with self._database.unit_of_work() as uow:
                    results = await self._apply(uow, [item for item, _ in batch])
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
