"""The test provider decides by digits, or by the birth date on the clock's day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import UUID

import pytest

from chassis.testing.clock import ManualClock
from verification.checks import CheckOutcome, Identity, MockCheck

pytestmark = pytest.mark.asyncio

REFERENCE = UUID(int=7)
check = MockCheck(ManualClock(datetime(2026, 6, 15, 23, 59, tzinfo=UTC)))


@pytest.mark.parametrize(
    ("digits", "outcome"), [("0000", "no_match"), ("0001", "provider_error"), ("0002", "needs_document")]
)
async def test_magic_digits_win_over_the_birth_date(digits: str, outcome: CheckOutcome) -> None:
    result = await check.check(Identity("Ada Test", date(1950, 1, 1), digits, "CA"), REFERENCE)
    assert (result.outcome, result.thresholds) == (outcome, ())


@pytest.mark.parametrize(
    ("born", "outcome", "thresholds"),
    [
        (date(2005, 6, 15), "passed", (18, 21)),
        (date(2005, 6, 16), "passed", (18,)),
        (date(2008, 6, 15), "passed", (18,)),
        (date(2008, 6, 16), "underage", ()),
    ],
)
async def test_the_birth_date_decides_otherwise(born: date, outcome: str, thresholds: tuple[int, ...]) -> None:
    result = await check.check(Identity("Ada Test", born, "1234", "CA"), REFERENCE)
    assert (result.outcome, result.thresholds, result.evidence_ref) == (outcome, thresholds, f"mock:{REFERENCE}")
