"""Brings credentials under the newest key, and tells how many are not and when tokens end.

A value that changed while it was at hand is left alone. Must never write an opened secret anywhere.
"""

from __future__ import annotations

from typing import Final

from chassis.clock import Clock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.sealing import SealError
from chassis.telemetry.logs import logger
from chassis.telemetry.metrics import gauge
from contracts.errors import Transient
from sync_worker.connections.vault import Vault
from sync_worker.metrics import CREDENTIAL_EXPIRY, CREDENTIALS_ON_OLD_KEYS
from sync_worker.models import Credential
from sync_worker.repository import credentials

log = logger(__name__)

SCAN_INTERVAL_S: Final = 60.0
BATCH: Final = 100


class Rewrapper:
    """Re-wraps in batches, each row in a transaction of its own; several workers at once do no harm."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    async def run(self) -> None:
        """Look once a minute until cancelled."""
        while True:
            try:
                await self.tell_expiry()
                await self.rewrap_all()
            except Transient as error:
                log.warning("credentials_not_rewrapped", error=error.code)
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await self._clock.sleep(SCAN_INTERVAL_S)

    async def tell_expiry(self) -> None:
        """Set the gauge of the first token to end, by provider."""
        async with self._database.connection() as connection:
            ends = await credentials.earliest_expiry(connection)
        expiry = gauge(CREDENTIAL_EXPIRY)
        # A provider without tokens by now must not keep the instant of its last one.
        expiry.clear()
        for provider, at in ends.items():
            expiry.labels(provider).set(at.timestamp())

    async def rewrap_all(self) -> int:
        """Re-wrap everything that an older key wraps, and return how many rows that were; sets the gauge of the rest.

        A value that cannot be opened stays as it is, and counts. Raises `Transient` when the KMS is away.
        """
        newest, done = await self._vault.sealer.newest(), 0
        last: Credential | None = None
        while True:
            async with self._database.connection() as connection:
                found = await credentials.on_old_keys(connection, newest, last, BATCH)
            for one in found:
                done += await self._rewrap(one)
            async with self._database.connection() as connection:
                gauge(CREDENTIALS_ON_OLD_KEYS).set(await credentials.count_on_old_keys(connection, newest))
            if len(found) < BATCH:
                break
            last = found[-1]
        if done:
            log.info("credentials_rewrapped", rows=done)
        return done

    async def _rewrap(self, one: Credential) -> bool:
        try:
            sealed = await self._vault.rewrap(one)
        except SealError:
            log.warning("credential_unreadable", connection=str(one.connection), kind=one.kind)
            return False
        async with self._database.unit_of_work() as uow:
            return await credentials.rewrap(uow.connection, one, sealed)
