"""Bodies leave the claim-check store after their deliveries, not before."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from chassis.claims import ClaimStore
from chassis.testing.clock import ManualClock
from chassis.testing.harness import until
from contracts.errors import Invalid
from webhook_gateway.claim_keeper import DAY_S, MARGIN_DAYS, ClaimKeeper

pytestmark = pytest.mark.asyncio

RETENTION_DAYS = 40


async def test_a_body_is_kept_as_long_as_its_delivery_and_then_swept(tmp_path: Path) -> None:
    store = ClaimStore(tmp_path)
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


async def test_a_store_that_cannot_be_read_does_not_end_the_keeper(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    keeping = asyncio.create_task(ClaimKeeper(ClaimStore(blocked), ManualClock(), retention_days=1).run())
    await asyncio.sleep(0)
    assert not keeping.done()
    keeping.cancel()
