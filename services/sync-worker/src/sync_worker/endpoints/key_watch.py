"""Learns when each key of an endpoint was used last, and warns while an old one that ends soon is still in use.

Learning rides on the consumer of deliveries, so it must cost one statement per batch at most, and none in most.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from chassis.clock import Clock
from chassis.db.database import Database, UnitOfWork
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.events.gateway import DeliveryAttributes
from sync_worker.audit import SERVICE, Audit
from sync_worker.endpoints.republish import passes
from sync_worker.metrics import KEYS_EXPIRING_IN_USE
from sync_worker.repository import endpoints

log = logger(__name__)

# A key's last use is exact to this; a shorter one would write a row per batch for nobody's benefit.
THROTTLE: Final = timedelta(minutes=1)
# Forgetting only costs one write per key, and bounds the memory of a process that sees many tenants.
MAX_REMEMBERED: Final = 50_000
IN_USE: Final = timedelta(hours=1)
CHECK_INTERVAL_S: Final = 60.0


class KeyUses:
    """When keys were used, as far as this process has written it."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, str], datetime] = {}

    async def note(self, uow: UnitOfWork, deliveries: Iterable[DeliveryAttributes]) -> None:
        """Write the last use of keys that were used a minute or more after what is known; in the batch's transaction.

        A replayed or fetched delivery says nothing about what its provider signs with today.
        """
        latest: dict[tuple[str, str], datetime] = {}
        for one in deliveries:
            key = (one.endpoint, one.keyid)
            if one.origin == "webhook" and (key not in latest or latest[key] < one.receivedat):
                latest[key] = one.receivedat
        written = self._written
        news = {key: at for key, at in latest.items() if key not in written or at >= written[key] + THROTTLE}
        if news:
            await endpoints.note_uses(uow.connection, news)
            uow.after_commit(lambda: self._remember(news))

    def _remember(self, uses: dict[tuple[str, str], datetime]) -> None:
        if len(self._written) > MAX_REMEMBERED:
            self._written.clear()
        self._written.update(uses)


class KeyWatch:
    """Warns once per key that ends within `warning_h` hours though it was used in the last hour, beside a newer one."""

    def __init__(self, database: Database, clock: Clock, *, warning_h: float) -> None:
        self._database = database
        self._clock = clock
        self._audit = Audit(clock)
        self._warning = timedelta(hours=warning_h)

    async def run(self) -> None:
        """Check once a minute until cancelled."""
        while True:
            try:
                await self.check()
            except Exception as error:
                if not passes(error):
                    raise
                log.warning("key_watch_waits_for_database", error=type(error).__name__)
            await self._clock.sleep(CHECK_INTERVAL_S)

    async def check(self) -> int:
        """Set the gauge, log and audit what was not told before; returns how many keys there are."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            found = await endpoints.ending_in_use(uow.connection, now, now + self._warning, now - IN_USE)
            for key in found:
                if key["warned_at"] is not None:
                    continue
                endpoint, key_id, ends = key["endpoint"], key["key_id"], key["not_after"].isoformat()
                if not await endpoints.mark_warned(uow.connection, endpoint, key_id, now):
                    continue
                log.warning("old_key_still_used", endpoint=endpoint, key_id=key_id, ends=ends)
                target = f"endpoint/{endpoint}"
                self._audit.record(
                    uow,
                    SERVICE,
                    "endpoint.old_key_still_used",
                    tenant=key["tenant"],
                    target=target,
                    key_id=key_id,
                    ends=ends,
                )
        gauge(KEYS_EXPIRING_IN_USE).set(len(found))
        return len(found)
