"""Deletes bodies from the claim-check store once no delivery of their age is kept any more (ledger role)."""

from __future__ import annotations

from typing import Final

from chassis.claims import ClaimStore
from chassis.clock import Clock
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import counter
from contracts.errors import Transient
from webhook_gateway.metrics import CLAIMS_SWEPT

log = logger(__name__)

SWEEP_INTERVAL_S: Final = 6 * 3600.0
DAY_S: Final = 86_400.0
# A delivery is dropped with its day's partition, up to a day after its time; its body must not go before it.
MARGIN_DAYS: Final = 2
# Quarantine and dead letters refer to bodies as well, for as long as their topics keep them.
TOPIC_DAYS: Final = 30


class ClaimKeeper:
    """Sweeps the store from time to time; several replicas doing so at once is harmless."""

    def __init__(self, claims: ClaimStore, clock: Clock, *, retention_days: int) -> None:
        self._claims = claims
        self._clock = clock
        self._older_than_s = (max(retention_days, TOPIC_DAYS) + MARGIN_DAYS) * DAY_S

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                swept = await self._claims.sweep(self._older_than_s)
            except Transient as error:
                log.warning("claims_not_swept", error=error.detail)
            else:
                counter(CLAIMS_SWEPT).inc(swept)
            await self._clock.sleep(SWEEP_INTERVAL_S)
