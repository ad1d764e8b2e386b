"""Publishes what workers may spend of each provider's quota: limit, reserves, and what a forecast takes from whom.

One policy per bucket on the compacted topic; a new one only when limit or trim change, or workers would be told the
same again and again. A sandbox bucket gets one once it is used; use, forecasts and what was learned stay in their mode.
Must never raise a limit above what manifest, operator or provider said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.records import Message
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import CallClass, QuotaPolicy, QuotaWindow
from contracts.events.sync import QuotaUsage
from contracts.modes import Mode, keyed
from contracts.topics import HEALTH_QUOTAS
from health_monitor.forecast import Forecast, WindowForecast
from health_monitor.limits import Learned, published
from health_monitor.metrics import QUOTA_FORECAST
from health_monitor.repository import quotas
from health_monitor.repository.quotas import BucketKey, StoredQuota

log = logger(__name__)

# Forecasting the end of a window of seconds says nothing: shorter ones are looked at over this long.
_SHORTEST_FORECAST_S: Final = 60.0
# Trims are told in steps, or each report would change them a little.
_TRIM_STEPS: Final = 10
_REVIEW_S: Final = 5.0

Source = Literal["published", "configured", "learned"]


class Quotas:
    """Consumes usage, publishes policies. One replica sees all usage of a bucket, by its key."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._published = published()
        self._learned: dict[BucketKey, Learned] = {}
        self._forecasts: dict[BucketKey, WindowForecast] = {}
        self._policies: dict[BucketKey, QuotaPolicy] = {}

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of the policies' topic, other replicas' included."""
        if envelope is not None:
            policy = decode(QuotaPolicy, envelope.data)
            self._policies[BucketKey(policy.provider, policy.bucket, policy.mode)] = policy

    def has_quota(self, provider: str, mode: Mode) -> bool:
        """Tell whether a provider could take over calls: none of its buckets takes from interactive ones already."""
        return not any(
            policy.trim.get("interactive", 0) > 0
            for key, policy in self._policies.items()
            if (key.provider, key.mode) == (provider, mode)
        )

    async def handle(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Take reports of usage, and publish what follows from them."""
        now = self._clock.now().timestamp()
        touched: set[BucketKey] = set()
        for message in messages:
            usage = decode(QuotaUsage, message.envelope.data)
            key = BucketKey(usage.provider, usage.bucket, usage.mode)
            known = self._policies.get(key)
            believed = known.windows[0] if known is not None else next(iter(self._stated(key)[0]), None)
            self._learned.setdefault(key, Learned()).observe(usage, believed)
            if believed is not None:
                self._forecast_of(key, believed).observe(usage.used, now)
            touched.add(key)
        for key in sorted(touched):
            await self.publish(uow, key)

    async def run(self) -> None:
        """Publish the manifests' limits, and take trims back when use fell, until cancelled."""
        while True:
            for key in sorted({*self._published, *self._reviewed()}):
                if key not in self._policies or key in self._reviewed():
                    try:
                        async with self._database.unit_of_work() as uow:
                            await self.publish(uow, key)
                    except Exception as error:
                        if not is_unavailable(error):
                            raise
                        log.warning("quota_not_published", **key._asdict())
            await self._clock.sleep(_REVIEW_S)

    async def publish(self, uow: UnitOfWork, key: BucketKey) -> QuotaPolicy | None:
        """Publish a bucket's policy if it is another than the last one; returns the one in force."""
        stored = await quotas.lock(uow.connection, key)
        return await self._publish(uow, key, stored)

    async def configure(
        self, uow: UnitOfWork, key: BucketKey, windows: tuple[QuotaWindow, ...] | None
    ) -> QuotaPolicy | None:
        """Set an operator's limit, or with None go back to the manifest's and the learned one."""
        stored = await quotas.lock(uow.connection, key)
        return await self._publish(uow, key, stored.set(windows), even_if_same=True)

    def _reviewed(self) -> list[BucketKey]:
        """Return what may have to be published without a report of use: trims end, the sandbox follows a live limit."""
        return [
            key
            for key, policy in self._policies.items()
            if (policy.trim or key.mode == "sandbox") and key in self._forecasts
        ]

    async def _publish(
        self, uow: UnitOfWork, key: BucketKey, stored: StoredQuota, *, even_if_same: bool = False
    ) -> QuotaPolicy | None:
        (windows, source), last = self._windows(key, stored), stored.policy
        if not windows:
            return last
        said = self._forecast_of(key, windows[0]).forecast(self._clock.now().timestamp())
        gauge(QUOTA_FORECAST).labels(*key).set(said.at_end)
        trim = _stepped(said)
        if last is not None and (last.windows, last.trim) == (windows, trim) and not even_if_same:
            self._policies.setdefault(key, last)
            return last
        policy = QuotaPolicy(
            provider=key.provider,
            mode=key.mode,
            bucket=key.bucket,
            windows=windows,
            trim=trim,
            source=source,
            reason=said.reason,
            version=last.version + 1 if last is not None else 1,
            decided_at=self._clock.now(),
        )
        await quotas.save(uow.connection, policy, stored.configured, said.at_end)
        uow.emit(HEALTH_QUOTAS, keyed(key.provider, key.bucket, mode=key.mode), policy)
        uow.after_commit(lambda: self._policies.__setitem__(key, policy))
        return policy

    def _windows(self, key: BucketKey, stored: StoredQuota) -> tuple[tuple[QuotaWindow, ...], Source]:
        """Return the windows of a bucket, none where nobody knows any, and who says so."""
        if stored.configured is not None:
            return stored.configured, "configured"
        stated = self._stated(key)
        window = self._learned.get(key, Learned()).window
        learned: tuple[QuotaWindow, ...] = () if window is None else (window,)
        # What an earlier process learned stands until this one learns something else.
        if not learned and stored.policy is not None and stored.policy.source == "learned":
            learned = stored.policy.windows
        return (learned, "learned") if learned and learned != stated[0] else stated

    def _stated(self, key: BucketKey) -> tuple[tuple[QuotaWindow, ...], Source]:
        """Return what a bucket has without a limit of its own: the manifest's, or in the sandbox an operator's."""
        live = key._replace(mode="live")
        policy = self._policies.get(live)
        if key != live and policy is not None and policy.source == "configured":
            return policy.windows, "configured"
        return ((self._published[live],) if live in self._published else ()), "published"

    def _forecast_of(self, key: BucketKey, window: QuotaWindow) -> WindowForecast:
        seconds = max(window.seconds, _SHORTEST_FORECAST_S)
        limit = window.limit * seconds / window.seconds
        known = self._forecasts.get(key)
        if known is None or (known.limit, known.seconds) != (limit, seconds):
            known = self._forecasts[key] = WindowForecast(limit, seconds)
        return known


def _stepped(said: Forecast) -> dict[CallClass, float]:
    stepped = {name: round(part * _TRIM_STEPS) / _TRIM_STEPS for name, part in said.trim.items()}
    return {name: part for name, part in stepped.items() if part > 0}
