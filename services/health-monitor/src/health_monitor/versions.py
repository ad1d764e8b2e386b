"""What answers say about API versions: headers of third parties, read leniently and never trusted; pure.

`Deprecation` is RFC 9745 (`@1688169599`; drafts allowed `true` or a date), `Sunset` RFC 8594 (an HTTP date). Must never
raise for a header: one that cannot be read counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

from contracts.events.health import ApiVersion, ApiVersionsChanged
from contracts.events.sync import ApiVersionSeen, CallsObserved

# A version that nobody used for a week needs no migration, and one for a quarter is forgotten.
IN_TRAFFIC: Final = timedelta(days=7)
FORGOTTEN_AFTER: Final = timedelta(days=90)
# A vendor has a handful of versions; whoever puts something else into the header must not fill our tables and metrics.
MOST_VERSIONS: Final = 20
_HEADER_CHARS: Final = 200

VersionKey = tuple[str, str]
"""(provider, version)"""


@dataclass(frozen=True, slots=True)
class Notice:
    """The headers that came with a version; empty where none came."""

    deprecation: str = ""
    sunset: str = ""

    def after(self, earlier: Notice | None) -> Notice:
        """Return what is known with an earlier notice: a vendor sends the headers with some resources only."""
        if earlier is None:
            return self
        return Notice(self.deprecation or earlier.deprecation, self.sunset or earlier.sunset)


def merged(into: dict[VersionKey, Notice], calls: CallsObserved) -> None:
    """Add the versions of a report; headers are third-party text, cut and cleaned."""
    for seen in calls.versions:
        key = calls.provider, _clean(seen.version)
        into[key] = _notice(seen).after(into.get(key))


def _notice(seen: ApiVersionSeen) -> Notice:
    return Notice(_clean(seen.deprecation), _clean(seen.sunset))


def _clean(header: str) -> str:
    return header.replace("\0", "")[:_HEADER_CHARS]


def instant(header: str) -> datetime | None:
    """Return the instant that a header names: an HTTP date, a structured date (`@` and seconds) or an ISO date."""
    text = header.strip().strip('"')
    try:
        if text.startswith("@"):
            return datetime.fromtimestamp(int(text[1:]), UTC)
        read = datetime.fromisoformat(text) if text[:4].isdigit() else parsedate_to_datetime(text)
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        return None
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def described(row: Mapping[str, Any], now: datetime) -> ApiVersion:
    """Return a stored version as it is published."""
    deprecation = row["deprecation"].strip().lower()
    return ApiVersion(
        version=row["version"],
        in_traffic=now - row["last_seen"] <= IN_TRAFFIC,
        deprecated=deprecation not in ("", "false", "?0"),
        deprecation_at=instant(row["deprecation"]),
        sunset_at=instant(row["sunset"]),
        first_seen_at=row["first_seen"],
    )


def record(provider: str, rows: Iterable[Mapping[str, Any]], now: datetime) -> ApiVersionsChanged:
    """Return what is published about a provider: the versions used last, the newest first seen at the end."""
    newest = sorted(rows, key=lambda row: row["last_seen"], reverse=True)[:MOST_VERSIONS]
    versions = [described(row, now) for row in sorted(newest, key=lambda row: (row["first_seen"], row["version"]))]
    return ApiVersionsChanged(provider=provider, versions=tuple(versions), decided_at=now)


def shown(row: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a version as the API shows it, with the headers as they came and the days that are left."""
    told = described(row, now)
    left = (told.sunset_at - now) // timedelta(days=1) if told.sunset_at is not None else None
    return {
        **{name: row[name] for name in ("provider", "version", "deprecation", "sunset", "first_seen", "last_seen")},
        **told.model_dump(include={"in_traffic", "deprecated", "deprecation_at", "sunset_at", "source"}),
        "days_to_sunset": left,
    }
