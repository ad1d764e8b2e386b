"""Composition root: builds the verification service from its settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from chassis.clock import Clock, SystemClock
from chassis.db.connection import is_unavailable
from chassis.db.database import Database
from chassis.kafka.asyncapi import document
from chassis.kafka.loop import BatchLoop
from chassis.sealing import Keyring
from chassis.service import Service
from chassis.telemetry.logs import logger
from contracts.topics import PLATFORM_AUDIT
from verification import audit, repository, routes
from verification.checks import MockCheck
from verification.handlers import CONSUMER, sequence
from verification.settings import Settings
from verification.tags import Tagger
from verification.verify import SERVICE, AgeVerifier, Limits

log = logger(__name__)

NAME = SERVICE
# Tags of people whose window is over are personal data without a use.
ATTEMPTS_SWEEP_INTERVAL_S: Final = 600.0


def create(settings: Settings, clock: Clock | None = None) -> Service:
    """Return the service, ready to run; raises `SealError` when the keyring cannot be read."""
    clock = clock or SystemClock()
    database = Database(settings.database_url.get_secret_value(), service=NAME, pool_size=settings.database_pool_size)
    service = Service(NAME, settings, database=database)
    limits = Limits(
        attempts=settings.attempt_limit,
        attempt_window=timedelta(seconds=settings.attempt_window_s),
        attestation=timedelta(days=settings.attestation_days),
        check_timeout_s=settings.check_timeout_s,
    )
    tagger = Tagger(Keyring.load(settings.keyring))
    verifier = AgeVerifier(database, MockCheck(clock), tagger, clock, limits)
    service.add_loop(BatchLoop(CONSUMER, [PLATFORM_AUDIT], sequence, database))
    service.add_routes(routes.routes(verifier, service.tokens, clock))
    service.add_routes(audit.routes(database, service.tokens))

    async def sweep_attempts() -> None:
        while True:
            await clock.sleep(ATTEMPTS_SWEEP_INTERVAL_S)
            try:
                async with database.connection() as connection:
                    await repository.forget_attempts(connection, clock.now())
            except Exception as error:
                if not is_unavailable(error):
                    raise
                log.warning("attempts_not_swept", error=type(error).__name__)

    service.add_background("attempts sweep", sweep_attempts)
    return service


def asyncapi() -> str:
    """Return the AsyncAPI document of the verification service."""
    return document(NAME)
