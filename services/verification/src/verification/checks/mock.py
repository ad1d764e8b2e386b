"""A provider for tests and demonstrations that decides by documented magic digits; it proves nothing about anybody."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from chassis.clock import Clock
from verification.checks.port import CheckOutcome, CheckResult, Identity
from verification.rules import thresholds_passed

# The last four digits of the identity number choose the outcome; any others let the birth date decide.
MAGIC: Final[dict[str, CheckOutcome]] = {
    "0000": "no_match",
    "0001": "provider_error",
    "0002": "needs_document",
    "0003": "mismatch",
    "0004": "uncertain",
    "0005": "expired_document",
    "0006": "fraud_suspected",
}


class MockCheck:
    """Decides at once and without I/O, by the digits or by the birth date on the clock's day (UTC)."""

    name = "mock"
    assurance = "test"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def check(self, identity: Identity, reference: UUID) -> CheckResult:
        """Return the magic outcome, else whether the lowest threshold is reached."""
        evidence = f"mock:{reference}"
        magic = MAGIC.get(identity.id_last4)
        if magic is not None:
            return CheckResult(magic, evidence)
        thresholds = thresholds_passed(identity.date_of_birth, self._clock.now().date())
        return CheckResult("passed" if thresholds else "underage", evidence, thresholds)
