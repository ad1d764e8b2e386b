"""Signed times: reading them strictly in their unit, the window around now, and writing them.

Must never accept a time that a strict reading of its unit does not give.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from providers.manifest.signatures import TimestampUnit
from providers.sdk import Refused

# Unix seconds have ten digits until the year 2286, milliseconds thirteen; more would overflow `datetime`.
_MAX_DIGITS: Final = {"s": 11, "ms": 14}
_MAX_TEXT: Final = 40


def instant_of(stamp: str, unit: TimestampUnit) -> datetime:
    """Return the time that a stamp stands for; raises `Refused` (`malformed_signature`)."""
    if unit == "rfc3339":
        try:
            at = datetime.fromisoformat(stamp) if len(stamp) <= _MAX_TEXT and stamp.isascii() else None
        except ValueError:
            at = None
        if at is None or at.tzinfo is None:
            raise Refused("malformed_signature")
        return _in_utc(at)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= _MAX_DIGITS[unit]):
        raise Refused("malformed_signature")
    if unit == "s":
        return datetime.fromtimestamp(int(stamp), UTC)
    return datetime.fromtimestamp(int(stamp) // 1000, UTC) + timedelta(milliseconds=int(stamp) % 1000)


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise Refused("malformed_signature") from None


def within(stamp: str, unit: TimestampUnit, now: datetime, tolerance_s: int | None) -> datetime:
    """Return the time of a stamp; raises `Refused` when it is unreadable, stale or in the future.

    Without a tolerance the age does not matter, but the stamp must still be readable.
    """
    at = instant_of(stamp, unit)
    check_age(at, now, tolerance_s)
    return at


def check_age(at: datetime, now: datetime, tolerance_s: int | None) -> None:
    """Raise `Refused` for a time that is further from now than the tolerance, in either direction."""
    if tolerance_s is None:
        return
    age_s = (now - at).total_seconds()
    if age_s > tolerance_s:
        raise Refused("stale_timestamp")
    if age_s < -tolerance_s:
        raise Refused("future_timestamp")


def written(now: datetime, unit: TimestampUnit) -> str:
    """Return a time as the sender writes it."""
    if unit == "rfc3339":
        return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    seconds = now.timestamp()
    return str(int(seconds)) if unit == "s" else str(int(seconds * 1000))
