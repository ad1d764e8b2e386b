"""The time of a service's database: one clock for all its replicas, whatever their machines' clocks say.

A lease or a deadline that one replica writes is read by another; with a clock of their own, an hour apart, one would
wait an hour for a dead worker or take over a call that still runs. Must never follow a jump of the machine's clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from chassis.clock import Clock, SystemClock

# A reading whose answer took longer says too little; the one before it goes on.
MAX_ROUND_TRIP_S: Final = 0.5


class DatabaseClock:
    """Tells the database's time by the monotonic clock since it was last read; the machine's time before that."""

    def __init__(self, machine: Clock | None = None) -> None:
        self._machine = machine or SystemClock()
        self._read: datetime | None = None
        self._read_at = 0.0

    def learn(self, said: datetime, asked_at: float, answered_at: float) -> None:
        """Take a reading: what the database said between two instants of `monotonic`."""
        if self._read is None or answered_at - asked_at <= MAX_ROUND_TRIP_S:
            self._read, self._read_at = said, (asked_at + answered_at) / 2

    def now(self) -> datetime:
        """Return the database's instant."""
        if self._read is None:
            return self._machine.now()
        return self._read + timedelta(seconds=self._machine.monotonic() - self._read_at)

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Suspend the task for `seconds`."""
        await self._machine.sleep(seconds)
