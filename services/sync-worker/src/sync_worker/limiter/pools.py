"""What one worker holds of a path's quota for one class: a lease of units, and the calls that wait for more."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from contracts.errors import Transient
from contracts.events.health import CallClass
from sync_worker.limiter.policies import RANKS, CallPath

# Units that cover this much demand are leased at once.
AHEAD_S = 0.1
# Where few calls would share a round trip, a lease covers up to this much, within a lease's life of 250 ms: that many
# units at most, and that part of what the tightest window gives at once.
STRETCHED_S = 0.2
STRETCHED_UNITS = 40.0
STRETCHED_PART = 0.1
# The next lease is asked for when what is left covers this much: many round trips, and never more than half a lease.
LOW_S = 0.03
# Demand is averaged over about this long.
_MEMORY_S = 0.2
_SHORTEST_S = 0.02


class Grant:
    """Leave to send one call. `release` it when the call ended: some limits count calls in flight."""

    __slots__ = ("_on_release", "waited_s")

    def __init__(self, waited_s: float = 0.0, on_release: Callable[[], None] | None = None) -> None:
        self.waited_s = waited_s
        self._on_release = on_release

    def release(self) -> None:
        """Give the slot back, if there is one. Safe to repeat."""
        if self._on_release is not None:
            give_back, self._on_release = self._on_release, None
            give_back()


# Calls that had not to wait and hold nothing share one grant: the fast path builds no object.
FREE = Grant()


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits; `deadline` and `since` are monotonic seconds, `turn` its place inside of its class."""

    cost: float
    deadline: float
    since: float
    future: asyncio.Future[str]
    turn: int = 0

    def refuse(self, retry_after_s: float | None = None) -> None:
        """Answer that the deadline cannot be met."""
        if not self.future.done():
            self.future.set_exception(refusal(retry_after_s))


def refusal(retry_after_s: float | None) -> Transient:
    """Return the error of a call that would have to wait past its deadline."""
    return Transient(
        "quota_deadline", "the provider's quota is free only after the deadline", retry_after_s=retry_after_s
    )


@dataclass(slots=True, eq=False)
class Pool:
    """The lease and the waiters of one (path, class). Times are monotonic seconds; `granted_at` is the store's."""

    path: CallPath
    call_class: CallClass
    emergency: bool = False
    units: float = 0.0
    expires: float = 0.0
    ring_at: float = 0.0
    low: float = 0.0
    granted_at: int = 0
    cost: float = 1.0
    shut_until: float = 0.0
    flagged: bool = False
    calls: int = 0
    spent: float = 0.0
    waiters: list[tuple[tuple[int, float], int, Waiter]] = field(default_factory=list)
    _demand: float = 0.0
    _asked_at: float = 0.0
    _spent_then: float = 0.0
    _reported: tuple[int, float] = (0, 0.0)
    _sequence: int = 0

    @property
    def rank(self) -> int:
        """Who goes first when several pools want something: the emergency, then critical."""
        return -1 if self.emergency else RANKS[self.call_class]

    def push(self, waiter: Waiter) -> None:
        """Queue a call by its turn, then by its deadline."""
        self._sequence += 1
        heapq.heappush(self.waiters, ((waiter.turn, waiter.deadline), self._sequence, waiter))

    def head(self) -> Waiter | None:
        """Return the next call to serve, dropping those that gave up."""
        while self.waiters and self.waiters[0][2].future.done():
            heapq.heappop(self.waiters)
        return self.waiters[0][2] if self.waiters else None

    def pop(self) -> None:
        """Remove the head."""
        heapq.heappop(self.waiters)

    def charge(self, cost: float) -> None:
        """Count what a call spent that had to wait."""
        self.spent += cost

    def collect(self) -> tuple[int, float]:
        """Return the calls that had not to wait, and the units of all calls, since the last time."""
        calls, spent = self._reported
        self._reported = (self.calls, self.spent)
        return self.calls - calls, self.spent - spent

    def is_idle(self, now: float, idle_s: float) -> bool:
        """Tell whether nothing happens here any more."""
        active = self.waiters or self.flagged or self.units > 0
        return not active and now - max(self.expires, self.shut_until) > idle_s

    def wanted(self) -> float:
        """Return the cost of all calls that wait."""
        return sum(waiter.cost for _, _, waiter in self.waiters if not waiter.future.done())

    def expired(self, before: float) -> Iterator[Waiter]:
        """Remove and yield the calls whose deadline is before an instant."""
        while (waiter := self.head()) is not None and waiter.deadline <= before:
            self.pop()
            yield waiter
        if waiter is not None and self.call_class == "bulk":
            # Behind a head that can wait there may be calls of a later turn that cannot; `head` drops them, answered.
            yield from [late for _, _, late in self.waiters if late.deadline <= before and not late.future.done()]

    def lease_size(self, now: float) -> float:
        """Learn how fast this pool is used, and return the units of the next 100 ms of it, or of 200 where few."""
        elapsed = now - self._asked_at
        if elapsed >= _SHORTEST_S:
            rate = (self.spent - self._spent_then) / elapsed
            self._demand += min(1.0, elapsed / _MEMORY_S) * (rate - self._demand)
            self._asked_at, self._spent_then = now, self.spent
        most = min(STRETCHED_UNITS, STRETCHED_PART * self.path.greatest_cost)
        return max(self._demand * AHEAD_S, min(self._demand * STRETCHED_S, most))

    def low_mark(self) -> float:
        """Return the units at which the next lease is asked for."""
        return min(self.units / 2, max(1.0, self._demand * LOW_S))

    def drop_expired(self, now: float) -> float:
        """Forget a lease that ran out and return its unspent units."""
        if now < self.expires or self.units <= 0:
            return 0.0
        units, self.units = self.units, 0.0
        return units


PoolKey = tuple[CallPath, CallClass | Literal["emergency"]]


def borrow(pools: Mapping[PoolKey, Pool], pool: Pool, cost: float, now: float) -> bool:
    """Take from the lease of a class that stands behind: what is enough for it is enough for this one."""
    if pool.waiters or pool.emergency:
        return False
    behind: tuple[CallClass, ...] = ("bulk", "interactive")
    for other_class in behind:
        other = pools.get((pool.path, other_class))
        if other is None or other.rank <= pool.rank or other.units < cost or now >= other.expires:
            continue
        other.units -= cost
        pool.spent += cost
        pool.calls += 1
        return True
    return False
