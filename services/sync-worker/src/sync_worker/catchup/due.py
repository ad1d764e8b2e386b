"""The rhythm of background work that is due by a table: at once when woken, else by the tick, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chassis.db import tenancy
from chassis.telemetry.logs import logger
from sync_worker.endpoints.republish import passes

log = logger(__name__)


class Due:
    """Wakes and paces one kind of work, looked at every `tick_s` seconds at least; `name` is for the log."""

    def __init__(self, name: str, tick_s: float) -> None:
        self._name = name
        self._tick_s = tick_s
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for due work at once."""
        self._woken.set()

    async def run(self, step: Callable[[], Awaitable[int]]) -> None:
        """Do what is due until cancelled; `step` returns how much there was."""
        while True:
            self._woken.clear()
            try:
                with tenancy.scope(None):
                    while await step():
                        pass
            except Exception as error:
                if not passes(error):
                    raise
                log.warning("due_work_waits_for_database", work=self._name, error=type(error).__name__)
            try:
                async with asyncio.timeout(self._tick_s):
                    await self._woken.wait()
            except TimeoutError:
                continue
