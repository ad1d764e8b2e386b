"""The limiter that every call to a provider passes: spends leases locally, and waits in order when there is none left.

Must never let a call pass that neither the store nor the safe share has counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal

from chassis.clock import Clock
from chassis.redis import RedisError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import bound_counter, bound_histogram
from contracts.errors import Invalid
from contracts.events.health import CallClass
from sync_worker.limiter.fleet import ProviderState
from sync_worker.limiter.metrics import DECISIONS, WAIT_SECONDS
from sync_worker.limiter.phases import TurnSeen
from sync_worker.limiter.policies import TURNS, CallPath, Turn
from sync_worker.limiter.pools import FREE, Grant, Pool, PoolKey, Waiter, borrow, refusal
from sync_worker.limiter.safe import SafeShare
from sync_worker.limiter.store import LEASE_S, Ask, Notice, QuotaStore, Reply, Throttle, WindowTurn
from sync_worker.limiter.timers import Timers
from sync_worker.limiter.usage import RetryBudgets, UsageBook

log = logger(__name__)

HELLO_S: Final = 1.0
# After a failure the store is asked again this much later; meanwhile a call costs no timeout.
AWAY_S: Final = 1.0
# A pool that nobody used for this long is forgotten.
IDLE_S: Final = 60.0
# While the store is away what it must be told is kept, but not without end.
MAX_NOTICES: Final = 1000
_MICRO: Final = 1_000_000
_NEVER_SENT_S: Final = 1e10


class Limiter:
    """Quota for calls. One per process; `run` must run. `workers` is assumed until the store has counted them.

    `on_version(scope, version)` is called when a reply shows another version of a provider's routes in one mode.
    """

    def __init__(
        self,
        store: QuotaStore,
        clock: Clock,
        usage: UsageBook,
        retries: RetryBudgets,
        *,
        workers: int = 4,
        on_version: Callable[[str, int], None] | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = clock.monotonic
        self._usage = usage
        self._retries = retries
        self._workers = workers
        self._on_version = on_version
        self._pools: dict[PoolKey, Pool] = {}
        self._providers: dict[str, ProviderState] = {}
        self._held: dict[str, float] = {}  # slots of concurrent buckets: in flight or leased
        self._safe = SafeShare(self._held)
        self._due: list[Pool] = []
        # Paths that must be told of without asking: True for a hello, False for what is held or was known.
        self._tell: dict[CallPath, bool] = {}
        self._notices: list[Notice] = []
        self._blocked: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._timers = Timers(clock, self._wake)
        self._away_until = 0.0

    def take_now(self, path: CallPath, call_class: CallClass, cost: float = 1.0) -> Grant | None:
        """Return leave to send if this worker holds it already, else None. About a microsecond, no I/O."""
        pool = self._pools.get((path, call_class))
        if pool is None or pool.units < cost or pool.waiters or self._monotonic() >= pool.expires:
            return None
        pool.units -= cost
        pool.spent += cost
        pool.calls += 1
        if pool.units < pool.low and not pool.flagged:
            self._flag(pool)
        return self._slot(path, cost, 0.0) if path.concurrent else FREE

    async def take(
        self,
        path: CallPath,
        call_class: CallClass,
        cost: float,
        deadline: float,
        *,
        emergency: bool = False,
        turn: Turn = "pull",
    ) -> Grant:
        """Return leave to send one call that costs `cost` units, waiting in order of class, turn and deadline.

        `deadline` is monotonic seconds; a `turn` orders bulk only. Raises `Transient` with code `quota_deadline` as
        soon as it is clear that it cannot be met, and `Invalid` with code `quota_cost` for a call that no window could
        ever grant. An `emergency` call draws on 5 % of its own, and is logged.
        """
        if not emergency:
            grant = self.take_now(path, call_class, cost)
            if grant is not None:
                return grant
        return await self._wait(self._pool(path, "emergency" if emergency else call_class), cost, deadline, TURNS[turn])

    def throttled(self, path: CallPath, bucket: str, block_s: float, sent_at: float | None) -> None:
        """Block a bucket for every worker; `sent_at` (monotonic) of a call that got a 429 lowers the estimate too."""
        now = self._monotonic()
        age_s = _NEVER_SENT_S if sent_at is None else now - sent_at
        self._notices.append(Throttle(path.scope, bucket, block_s, age_s))
        if block_s > 0:
            self._blocked[bucket] = now + block_s
            for pool in self._pools.values():
                if any(known.name == bucket for known in pool.path.buckets):
                    pool.expires = min(pool.expires, now)
                    self._shut(pool, now, block_s)
                    self._flag(pool)
        self._wake.set()

    def turned(self, path: CallPath, bucket: str, seconds: float, seen: TurnSeen) -> None:
        """Tell every worker where a fixed window of a bucket turns, with the next round trip."""
        offset = self._state(path.scope).clock_offset
        if offset:
            earliest, latest = seen.earliest + offset, seen.latest + offset
            self._notices.append(WindowTurn(path.scope, bucket, seconds, earliest, latest, seen.way_s))

    def waiting(self) -> dict[tuple[str, CallClass], int]:
        """Return how many calls wait, by provider and class."""
        found: dict[tuple[str, CallClass], int] = {}
        for pool in self._pools.values():
            place = (pool.path.provider, pool.call_class)
            found[place] = found.get(place, 0) + len(pool.waiters)
        return found

    async def run(self) -> None:
        """Serve until cancelled: one round trip at a time, each for everything that was asked meanwhile."""
        hello, this = asyncio.create_task(self._say_hello()), asyncio.current_task()
        try:
            # redis-py can swallow a cancellation that comes while it reads an answer.
            while this is not None and not this.cancelling():
                await self._wake.wait()
                self._wake.clear()
                await self._round()
        finally:
            hello.cancel()
            self._timers.stop()

    def collect(self) -> None:
        """Hand what was spent since the last time to the usage book and the metrics."""
        for pool in self._pools.values():
            calls, spent = pool.collect()
            self._usage.spent(pool.path, pool.call_class, spent)
            if calls:
                bound_counter(DECISIONS, pool.call_class, "leased").inc(calls)

    async def _wait(self, pool: Pool, cost: float, deadline: float, turn: int) -> Grant:
        now = self._monotonic()
        if cost > pool.path.greatest_cost:
            raise Invalid("quota_cost", f"{cost:g} units are more than the provider ever grants at once", field="cost")
        if deadline <= now or pool.shut_until >= deadline:
            bound_counter(DECISIONS, pool.call_class, "refused").inc()
            raise refusal(max(0.0, pool.shut_until - now))
        if borrow(self._pools, pool, cost, now):
            return self._slot(pool.path, cost, 0.0)
        waiter = Waiter(cost, deadline, now, asyncio.get_running_loop().create_future(), turn)
        pool.push(waiter)
        self._timers.add(deadline, pool)
        self._flag(pool)
        try:
            decision = await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._slot(pool.path, cost, 0.0).release()
            raise
        waited_s = self._monotonic() - now
        bound_counter(DECISIONS, pool.call_class, decision).inc()
        bound_histogram(WAIT_SECONDS, pool.call_class).observe(waited_s)
        if pool.emergency:
            log.warning("quota_emergency_used", provider=pool.path.provider, bucket=pool.path.narrowest, cost=cost)
        return self._slot(pool.path, cost, waited_s)

    def _slot(self, path: CallPath, cost: float, waited_s: float) -> Grant:
        """Return the grant of a counted call. Its slots were counted as held when they were leased."""
        return Grant(waited_s, lambda: self._give_back(path, cost)) if path.concurrent else Grant(waited_s)

    def _give_back(self, path: CallPath, cost: float) -> None:
        self._hold(path, -cost)
        self._tell.setdefault(path, False)
        for pool in self._pools.values():
            if pool.waiters and pool.path.scope == path.scope and pool.path.concurrent:
                pool.shut_until = 0.0
                self._flag(pool)
        self._wake.set()

    def _hold(self, path: CallPath, units: float) -> None:
        for bucket in path.buckets:
            if any(window.shape == "concurrent" for window in bucket.windows):
                self._held[bucket.name] = max(0.0, self._held.get(bucket.name, 0.0) + units)

    async def _round(self) -> None:
        now = self._monotonic()
        for pool in self._timers.due(now):
            self._ring(pool, now)
        due, self._due = self._due, []
        asks: list[tuple[Pool | None, Ask]] = []
        for pool in sorted(due, key=lambda one: one.rank):
            pool.flagged = False
            if self._is_safe(pool.path.scope, now):
                self._serve_safely(pool, now)
            elif (ask := self._ask(pool, now)) is not None:
                asks.append((pool, ask))
        if now >= self._away_until:
            tell, self._tell = self._tell, {}
            asks += [(None, self._telling(path, now, hello=hello)) for path, hello in tell.items()]
        if asks or (self._notices and now >= self._away_until):
            await self._exchange(asks)
        self._timers.arm()

    def _ring(self, pool: Pool, now: float) -> None:
        for waiter in pool.expired(now):
            bound_counter(DECISIONS, pool.call_class, "refused").inc()
            waiter.refuse(pool.shut_until - now if pool.shut_until > now else None)
        if pool.ring_at <= now < pool.expires and pool.units > 0:
            # The lease was renewed meanwhile; one alarm for each pool is enough.
            pool.ring_at = pool.expires
            self._timers.add(pool.expires, pool)
        if (pool.head() is not None and pool.shut_until <= now) or (pool.units > 0 and pool.expires <= now):
            self._flag(pool)

    def _ask(self, pool: Pool, now: float) -> Ask | None:
        path = pool.path
        back = pool.drop_expired(now)
        if back:
            self._hold(path, -back)
        head = pool.head()
        want, need = 0.0, pool.wanted()
        if pool.shut_until <= now:
            ahead = 0.0 if pool.emergency or path.concurrent else pool.lease_size(now) - pool.units
            want = head.cost if pool.emergency and head is not None else need + max(0.0, ahead)
            if head is not None:
                pool.cost = head.cost
        if want < pool.cost and head is None and not back:
            return None
        want = 0.0 if want <= 0 else max(want, pool.cost)
        ask = self._telling(path, now)
        ask.call_class, ask.emergency, ask.cost, ask.want = pool.call_class, pool.emergency, pool.cost, want
        ask.need = need
        ask.back, ask.back_at = back, pool.granted_at
        return ask if want or back else None

    def _telling(self, path: CallPath, now: float, *, hello: bool = False) -> Ask:
        state = self._state(path.scope)
        known = list(state.to_tell(path))
        ask = Ask(path, "bulk", 1.0, 0.0, hello=hello, told=bool(known))
        windows = [(bucket, window) for bucket in path.buckets for window in bucket.windows]
        if path.concurrent:
            known = known or [""] * len(windows)
            for at, (bucket, window) in enumerate(windows):
                if window.shape == "concurrent":
                    known[at] = repr(self._held.get(bucket.name, 0.0))
        ask.known = known
        ask.owed = self._safe.settle(path, now, state.workers)
        ask.retry_delta = self._retries.take_delta(path.scope)
        return ask

    async def _exchange(self, asks: list[tuple[Pool | None, Ask]]) -> None:
        notices, self._notices = self._notices, []
        try:
            replies = await self._store.exchange([ask for _, ask in asks], notices)
        except (RedisError, OSError, TimeoutError) as error:
            now = self._monotonic()
            self._away_until = now + AWAY_S
            log.warning("quota_store_away", error=type(error).__name__)
            self._notices = (notices + self._notices)[-MAX_NOTICES:]
            for pool, ask in asks:
                # Whether it ran is not known: what was owed is told again, what was given back is not.
                self._safe.owe(ask.path, ask.owed)
                if pool is not None:
                    self._serve_safely(pool, now)
            return
        now = self._monotonic()
        for (pool, ask), reply in zip(asks, replies, strict=True):
            self._take_reply(ask, reply, now)
            if pool is not None and ask.want:
                self._serve(pool, ask, reply, now)

    def _take_reply(self, ask: Ask, reply: Reply, now: float) -> None:
        path, state = ask.path, self._state(ask.path.scope)
        state.used_at = now if ask.want else state.used_at
        for other in state.take(path, reply, now, told=ask.told):
            self._tell.setdefault(other, False)
            self._wake.set()
        self._safe.clock_offset = state.clock_offset
        self._safe.saw(path, reply.known)
        self._retries.saw(path.scope, reply.retry_tokens)
        if reply.route_version != state.version:
            state.version = reply.route_version
            if self._on_version is not None:
                self._on_version(path.scope, reply.route_version)

    def _serve(self, pool: Pool, ask: Ask, reply: Reply, now: float) -> None:
        if reply.healing:
            self._serve_safely(pool, now)
            return
        if reply.granted > 0:
            pool.units += reply.granted
            pool.granted_at = reply.now
            pool.expires = now + min(LEASE_S, (reply.lease_end - reply.now) / _MICRO)
            # While there is less than everybody wants, asking ahead would only take it from somebody who waits.
            pool.low = pool.low_mark() if reply.granted >= ask.want and not pool.path.concurrent else 0.0
            pool.shut_until = 0.0
            self._hold(pool.path, reply.granted)
            if pool.ring_at <= now or pool.expires < pool.ring_at:
                pool.ring_at = pool.expires
                self._timers.add(pool.expires, pool)
            while (waiter := pool.head()) is not None and waiter.cost <= pool.units:
                pool.pop()
                pool.units -= waiter.cost
                pool.charge(waiter.cost)
                waiter.future.set_result("emergency" if pool.emergency else "waited")
            if pool.head() is not None:
                self._flag(pool)
        else:
            self._shut(pool, now, reply.wait_s)

    def _shut(self, pool: Pool, now: float, wait_s: float) -> None:
        """Wait without asking; whoever cannot wait that long is told at once."""
        pool.shut_until = max(pool.shut_until, now + wait_s)
        self._timers.add(pool.shut_until, pool)
        for waiter in pool.expired(pool.shut_until):
            bound_counter(DECISIONS, pool.call_class, "refused").inc()
            waiter.refuse(pool.shut_until - now)

    def _is_safe(self, scope: str, now: float) -> bool:
        return now < self._away_until or now < self._state(scope).heal_until

    def _serve_safely(self, pool: Pool, now: float) -> None:
        """Let calls pass at the safe share; bulk waits until the store is back."""
        state = self._state(pool.path.scope)
        back_at = max(self._away_until, state.heal_until)
        while (waiter := pool.head()) is not None:
            wait_s = pool.shut_until - now
            if wait_s <= 0 and pool.call_class != "bulk":
                wait_s = self._safe.wait_s(pool.path, waiter.cost, now, state.workers)
            elif wait_s <= 0:
                wait_s = back_at - now
            if wait_s > 0:
                self._timers.add(min(now + wait_s, max(back_at, now)) if back_at > now else now + wait_s, pool)
                return
            pool.pop()
            pool.charge(waiter.cost)
            self._hold(pool.path, waiter.cost)
            waiter.future.set_result("safe")

    def _pool(self, path: CallPath, kind: CallClass | Literal["emergency"]) -> Pool:
        pool = self._pools.get((path, kind))
        if pool is None:
            pool = Pool(path, "critical" if kind == "emergency" else kind, kind == "emergency")
            pool.shut_until = max(self._blocked.get(bucket.name, 0.0) for bucket in path.buckets)
            self._pools[path, kind] = pool
        return pool

    def _state(self, scope: str) -> ProviderState:
        state = self._providers.get(scope)
        if state is None:
            state = self._providers[scope] = ProviderState(self._workers)
        return state

    def _flag(self, pool: Pool) -> None:
        if not pool.flagged:
            pool.flagged = True
            self._due.append(pool)
            self._wake.set()

    async def _say_hello(self) -> None:
        while True:
            await self._clock.sleep(HELLO_S)
            self.collect()
            now = self._monotonic()
            for state in self._providers.values():
                if state.paths and now - state.used_at < IDLE_S:
                    self._tell[state.paths[0]] = True
            for path, _ in self._pools:
                if path.concurrent:
                    self._tell.setdefault(path, False)
            self._forget_idle(now)
            self._wake.set()

    def _forget_idle(self, now: float) -> None:
        self._blocked = {bucket: until for bucket, until in self._blocked.items() if until > now}
        idle = {key for key, pool in self._pools.items() if pool.is_idle(now, IDLE_S)}
        for place in idle:
            del self._pools[place]
        for path in {path for path, _ in idle} - {path for path, _ in self._pools}:
            self._state(path.scope).forget(path)
