"""Thresholds by date, and which input makes sense."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification.rules import THRESHOLDS, implausible, normal_name, thresholds_passed

days = st.dates(min_value=date(1900, 1, 1), max_value=date(2100, 1, 1))


@pytest.mark.parametrize(
    ("birth", "on", "passed"),
    [
        (date(2005, 6, 15), date(2026, 6, 14), (18,)),
        (date(2005, 6, 15), date(2026, 6, 15), (18, 21)),
        (date(2008, 6, 15), date(2026, 6, 14), ()),
        (date(2008, 6, 15), date(2026, 6, 15), (18,)),
        # Born on 29 February: counts from 1 March, also in a year that is no leap year.
        (date(2004, 2, 29), date(2025, 2, 28), (18,)),
        (date(2004, 2, 29), date(2025, 3, 1), (18, 21)),
        (date(2008, 2, 29), date(2026, 2, 28), ()),
        (date(2008, 2, 29), date(2026, 3, 1), (18,)),
        (date(2027, 1, 1), date(2026, 1, 1), ()),
    ],
)
def test_a_threshold_is_passed_on_the_birthday(birth: date, on: date, passed: tuple[int, ...]) -> None:
    assert thresholds_passed(birth, on) == passed


@given(days, days, st.integers(0, 40_000))
def test_a_threshold_once_passed_stays_passed_and_they_are_passed_in_order(birth: date, on: date, later: int) -> None:
    passed = thresholds_passed(birth, on)
    assert passed == THRESHOLDS[: len(passed)]
    assert set(passed) <= set(thresholds_passed(birth, on + timedelta(days=later)))


@pytest.mark.parametrize(
    ("name", "birth", "state", "why"),
    [
        ("X", date(1990, 1, 1), "CA", "implausible_name"),
        ("", date(1990, 1, 1), "CA", "implausible_name"),
        ("12 34", date(1990, 1, 1), "CA", "implausible_name"),
        ("Ada Test", date(2026, 1, 2), "CA", "implausible_date_of_birth"),
        ("Ada Test", date(1890, 1, 1), "CA", "implausible_date_of_birth"),
        ("Ada Test", date(1990, 1, 1), "ZZ", "implausible_state"),
        ("Ada Test", date(1990, 1, 1), "CA", None),
        ("李明", date(2026, 1, 1), "NY", None),
    ],
)
def test_input_that_makes_no_sense_is_named(name: str, birth: date, state: str, why: str | None) -> None:
    assert implausible(name, birth, state, date(2026, 1, 1)) == why


def test_names_compare_without_case_width_and_spacing() -> None:
    assert normal_name("  ADA \t Straße") == normal_name("ada strasse") == normal_name("\uff41\uff44\uff41 STRASSE")
    assert normal_name("Ada B") != normal_name("AdaB")
