"""Publishes what workers may spend of each provider's quota: limits, reserves, and what a forecast takes from whom.

One policy per kind of bucket on the compacted topic; a new one only when limits or trims change, or workers would be
told the same again and again. What one account's answers teach corrects that account's forecast only. A sandbox bucket
gets a policy once it is used; use, forecasts and what was learned stay in their mode. Must never raise a limit above
what manifest, operator or provider said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database, UnitOfWork
from chassis.kafka.producer import partition_for
from chassis.kafka.records import Message, Origin
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.health import QuotaPolicy, QuotaWindow
from contracts.events.sync import QuotaUsage
from contracts.modes import Mode, quota_key
from contracts.topics import HEALTH_QUOTAS, SYNC_QUOTA_USAGE
from health_monitor.limits import published, replaced
from health_monitor.metrics import QUOTA_FORECAST
from health_monitor.repository import quotas
from health_monitor.repository.quotas import BucketKey, StoredQuota
from health_monitor.spending import Judgement, Spending

log = logger(__name__)

_REVIEW_S: Final = 5.0

Source = Literal["published", "configured", "learned"]
Windows = tuple[QuotaWindow, ...]


class Quotas:
    """Consumes usage, publishes policies. One replica sees all usage of a kind of bucket, by its key."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._published = published()
        self._partitions: set[int] | None = None
        self._counted: dict[tuple[str, int], int] = {}
        self._spending: dict[BucketKey, Spending] = {}
        self._policies: dict[BucketKey, QuotaPolicy] = {}
        self._noted: dict[BucketKey, tuple[float, str]] = {}

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of the policies' topic, other replicas' included."""
        if envelope is not None:
            policy = decode(QuotaPolicy, envelope.data)
            self._policies[BucketKey(policy.provider, policy.bucket, policy.mode)] = policy

    def own(self, partitions: Iterable[int]) -> None:
        """See the reports of these partitions from now on, and no others: forecasts of those are somebody else's."""
        self._partitions = set(partitions)
        for key in [key for key in self._spending if not self._owns(key)]:
            del self._spending[key]
            self._noted.pop(key, None)
            gauge(QUOTA_FORECAST).labels(*key).set(0)

    def has_quota(self, provider: str, mode: Mode) -> bool:
        """Tell whether a provider could take over calls: nowhere do all owners lose of their interactive ones."""
        return not any(
            policy.trim.get("interactive", 0) > 0
            for key, policy in self._policies.items()
            if (key.provider, key.mode) == (provider, mode)
        )

    async def handle(self, uow: UnitOfWork, messages: Sequence[Message]) -> None:
        """Take reports of usage, each once, and publish what follows from them."""
        now = self._now()
        touched: set[BucketKey] = set()
        for usage, origin in [(decode(QuotaUsage, one.envelope.data), one.origin) for one in messages]:
            key = BucketKey(usage.provider, usage.bucket, usage.mode)
            if self._owns(key) and self._is_new(origin):
                self._spent(key).take(usage, self._in_force(key), now)
                touched.add(key)
        for key in sorted(touched):
            if self._is_due(key):
                await self.publish(uow, key)

    async def run(self) -> None:
        """Publish the manifests' limits, and follow what changes without a report, until cancelled."""
        while True:
            try:
                await self.review()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("quotas_not_published", error=type(error).__name__)
            await self._clock.sleep(_REVIEW_S)

    async def review(self) -> None:
        """Publish what is due: first policies, other manifests, trims that end; and note forecasts for the API."""
        for key, policy in self._policies.items():
            if policy.trims and self._owns(key):
                self._spent(key)
        for key in sorted({*self._published, *self._policies, *self._spending}):
            if self._is_due(key):
                async with self._database.unit_of_work() as uow:
                    await self.publish(uow, key)
        await self._note()

    async def publish(self, uow: UnitOfWork, key: BucketKey) -> QuotaPolicy | None:
        """Publish a bucket's policy if it is another than the last one; returns the one in force."""
        stored = await quotas.lock(uow.connection, key)
        return await self._publish(uow, key, stored)

    async def configure(self, uow: UnitOfWork, key: BucketKey, windows: Windows | None) -> QuotaPolicy | None:
        """Set an operator's limit, or with None go back to the manifest's and the learned one."""
        stored = await quotas.lock(uow.connection, key)
        return await self._publish(uow, key, stored.set(windows), even_if_same=True)

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _owns(self, key: BucketKey) -> bool:
        """Tell whether the bucket's reports come to this replica; all do until somebody says otherwise."""
        if self._partitions is None:
            return True
        return partition_for(quota_key(*key).encode(), SYNC_QUOTA_USAGE.partitions) in self._partitions

    def _is_new(self, origin: Origin) -> bool:
        """Tell whether a report is not counted yet: one comes again when the transaction behind it failed."""
        place = (origin.topic, origin.partition)
        if origin.offset <= self._counted.get(place, -1):
            return False
        self._counted[place] = origin.offset
        return True

    def _spent(self, key: BucketKey) -> Spending:
        return self._spending.setdefault(key, Spending(self._now()))

    def _judge(self, key: BucketKey, windows: Windows, before: QuotaPolicy | None) -> Judgement | None:
        """Return what follows from the reports of a bucket, None where they come to another replica."""
        spending = self._spending.get(key)
        if spending is None:
            return None
        judged = spending.judge(windows, self._now(), before)
        gauge(QUOTA_FORECAST).labels(*key).set(judged.at_end)
        return judged

    def _is_due(self, key: BucketKey) -> bool:
        """Tell, without the database, whether the policy in force may be another one now."""
        policy = self._policies.get(key)
        windows, source = self._windows(key, StoredQuota(policy))
        if policy is not None and policy.source == "configured":
            # An operator's limit; or, in the sandbox, perhaps the live one's, which may have changed.
            if key.mode == "sandbox" and (windows, source) != (policy.windows, policy.source):
                return True
            windows = policy.windows
        # What a manifest does not publish any more stays in force until somebody names another limit.
        windows = windows or self._in_force(key)
        judged = self._judge(key, windows, policy)
        if policy is None:
            return bool(windows)
        return windows != policy.windows or (
            judged is not None and (judged.trim, judged.trims) != (policy.trim, policy.trims)
        )

    async def _publish(
        self, uow: UnitOfWork, key: BucketKey, stored: StoredQuota, *, even_if_same: bool = False
    ) -> QuotaPolicy | None:
        (windows, source), last = self._windows(key, stored), stored.policy
        if not windows:
            return last
        judged = self._judge(key, windows, last)
        if judged is None:
            judged = _as_before(stored)
        said = (windows, judged.trim, judged.trims)
        if last is not None and not even_if_same and (last.windows, last.trim, last.trims) == said:
            self._policies[key] = last
            return last
        policy = QuotaPolicy(
            provider=key.provider,
            mode=key.mode,
            bucket=key.bucket,
            windows=windows,
            trim=judged.trim,
            trims=judged.trims,
            source=source,
            reason=judged.reason,
            version=last.version + 1 if last is not None else 1,
            decided_at=self._clock.now(),
        )
        await quotas.save(uow.connection, policy, stored.configured, (judged.at_end, judged.worst))
        uow.emit(HEALTH_QUOTAS, quota_key(*key), policy)
        uow.after_commit(lambda: self._policies.__setitem__(key, policy))
        return policy

    async def _note(self) -> None:
        """Keep the forecasts of this replica's buckets where the API of each replica reads them."""
        told: dict[BucketKey, tuple[float, str]] = {}
        for key in self._spending.keys() & self._policies.keys():
            judged = self._judge(key, self._in_force(key), self._policies[key])
            if judged is not None:
                told[key] = (round(judged.at_end, 2), judged.worst)
        changed = {key: said for key, said in told.items() if self._noted.get(key) != said}
        if changed:
            async with self._database.unit_of_work() as uow:
                await quotas.note(uow.connection, changed)
            self._noted |= changed

    def _in_force(self, key: BucketKey) -> Windows:
        policy = self._policies.get(key)
        return policy.windows if policy is not None else self._stated(key)[0]

    def _windows(self, key: BucketKey, stored: StoredQuota) -> tuple[Windows, Source]:
        """Return the windows of a bucket, none where nobody knows any, and who says so."""
        if stored.configured is not None:
            return stored.configured, "configured"
        stated = self._stated(key)
        # What an account's answers say is that account's; a bucket that all share has one owner, without a name.
        if key.bucket != "app":
            return stated
        learned = self._spending[key].learned("") if key in self._spending else None
        if learned is None:
            # What an earlier process learned stands until this one learns something else.
            last = stored.policy
            return (last.windows, "learned") if last is not None and last.source == "learned" else stated
        windows = replaced(stated[0], learned)
        return (windows, "learned") if windows != stated[0] else stated

    def _stated(self, key: BucketKey) -> tuple[Windows, Source]:
        """Return what a bucket has without a limit of its own: the manifest's, or in the sandbox an operator's."""
        live = key._replace(mode="live")
        policy = self._policies.get(live)
        if key != live and policy is not None and policy.source == "configured":
            return policy.windows, "configured"
        return self._published.get(live, ()), "published"


def _as_before(stored: StoredQuota) -> Judgement:
    """Return what the replica that sees the reports said last."""
    if stored.policy is None:
        return Judgement()
    policy = stored.policy
    return Judgement(stored.at_end, stored.worst, policy.trim, policy.trims, policy.reason)
