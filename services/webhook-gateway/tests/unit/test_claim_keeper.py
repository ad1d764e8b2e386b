"""Bodies leave the claim-check store after their deliveries, not before."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from chassis.claims.directory import DirectoryClaims
from chassis.testing.clock import ManualClock
from chassis.testing.harness import until
from contracts.errors import Invalid, Transient
from webhook_gateway.claim_keeper import DAY_S, MARGIN_DAYS, SWEEP_INTERVAL_S, ClaimKeeper

pytestmark = pytest.mark.asyncio

RETENTION_DAYS = 40


async def test_a_body_is_kept_as_long_as_its_delivery_and_then_swept(tmp_path: Path) -> None:
    store = DirectoryClaims(tmp_path)
    kept, old = await store.put(b"kept"), await store.put(b"old")
    for name, days in ((kept, RETENTION_DAYS + MARGIN_DAYS - 1), (old, RETENTION_DAYS + MARGIN_DAYS + 1)):
        then = time.time() - days * DAY_S
        os.utime(tmp_path / name[:2] / name, (then, then))
    keeping = asyncio.create_task(ClaimKeeper(store, ManualClock(), retention_days=RETENTION_DAYS).run())

    async def swept() -> bool:
        try:
            await store.get(old)
        except Invalid:
            return True
        return False

    await until(swept, "the old body is gone")
    assert await store.get(kept) == b"kept"
    keeping.cancel()


class BrokenOnce(DirectoryClaims):
    """A store whose disk fails at the first sweep."""

    sweeps = 0

    async def sweep(self, older_than_s: float) -> int:
        self.sweeps += 1
        if self.sweeps == 1:
            raise Transient("claim_store_unavailable", "the disk is away")
        return await super().sweep(older_than_s)


async def test_a_store_that_cannot_be_read_is_swept_at_the_next_round(tmp_path: Path) -> None:
    store, clock = BrokenOnce(tmp_path), ManualClock()
    keeping = asyncio.create_task(ClaimKeeper(store, clock, retention_days=1).run())

    async def swept_again() -> bool:
        clock.advance(SWEEP_INTERVAL_S)
        return store.sweeps > 1

    await until(swept_again, "the sweep after the failed one")
    assert not keeping.done()
    keeping.cancel()
