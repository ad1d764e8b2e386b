"""Age thresholds and what a plausible request looks like; pure, and the only code that calculates with a birth date."""

from __future__ import annotations

import unicodedata
from datetime import date
from typing import Final

RULE_VERSION: Final = "1"
# The ages that laws ask for most (verification.md §4.12); a result says which are passed, never an age.
THRESHOLDS: Final = (18, 21)
# The oldest age on record is 122 years.
MAX_AGE_YEARS: Final = 130
MIN_NAME_LETTERS: Final = 2
# Postal codes of the US states, the capital's district and the territories that issue identity cards.
_STATE_CODES: Final = """
    AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA
    RI SC SD TN TX UT VT VA WA WV WI WY DC PR VI GU AS MP
"""
STATES: Final = frozenset(_STATE_CODES.split())


def thresholds_passed(birth: date, on: date) -> tuple[int, ...]:
    """Return the thresholds that somebody born on `birth` has reached on the day `on`.

    A birthday counts from its first moment; one on 29 February counts from 1 March in other years.
    """
    years = full_years(birth, on)
    return tuple(age for age in THRESHOLDS if years >= age)


def full_years(birth: date, on: date) -> int:
    """Return completed years of life; negative before birth."""
    return on.year - birth.year - ((on.month, on.day) < (birth.month, birth.day))


def implausible(full_name: str, birth: date, state: str, on: date) -> str | None:
    """Return why no provider needs to be asked (a closed word), or None when the input makes sense."""
    if sum(character.isalpha() for character in full_name) < MIN_NAME_LETTERS:
        return "implausible_name"
    if not 0 <= full_years(birth, on) <= MAX_AGE_YEARS:
        return "implausible_date_of_birth"
    if state not in STATES:
        return "implausible_state"
    return None


def normal_name(name: str) -> str:
    """Return a name as it is compared: compatibility form, case folded, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())
