"""Reads what an answer means, whoever gave it: the table of sync-worker.md §4.1. Pure.

Must never read a missing permission or an unknown path as "there is no data".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from contracts.events.sync import Outcome
from providers.manifest.operations import Codes
from providers.reading import at
from providers.sdk import HttpResponse

MAX_RETRY_AFTER_S: Final = 3600.0
# RFC 9110 knows whole seconds; some send fractions of one.
_SECONDS: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_UNAUTHORISED, _FORBIDDEN, _THROTTLED = 401, 403, 429
# The request may still be carried out, or was by another one: only asking tells.
_AMBIGUOUS: Final = (408, 409, 425)
_SERVER_ERRORS: Final = range(500, 600)
# Never followed: to another host a redirect would carry the credentials along.
_REDIRECTS: Final = range(300, 400)

Meaning = Literal[
    "success", "credential", "missing_scope", "throttled", "unsent", "unclear", "refused", "redirected", "ours"
]


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer means, the outcome that is reported for it, and how long the provider asks to wait."""

    meaning: Meaning
    outcome: Outcome
    retry_after_s: float | None = None
    scope: str = ""


def classify(response: HttpResponse, codes: Codes, now: datetime) -> Reading:
    """Return what an answer means."""
    status, wait = response.status, retry_after(response, now)
    code = _code(response, codes)
    reading = Reading("refused", "client_error")
    if status == _THROTTLED or code in codes.throttled:
        reading = Reading("throttled", "throttled", wait)
    elif status == _UNAUTHORISED or code in codes.unauthorised:
        reading = Reading("credential", "client_error", wait)
    elif status == _FORBIDDEN or code in codes.missing_scope:
        reading = Reading("missing_scope", "client_error", wait, code)
    elif status in _SERVER_ERRORS:
        reading = Reading("unclear", "server_error", wait)
    elif status in _AMBIGUOUS:
        reading = Reading("unclear", "client_error", wait)
    elif status in _REDIRECTS:
        reading = Reading("redirected", "client_error", wait)
    elif status < _REDIRECTS.start:
        reading = Reading("success", "success")
    return reading


def retry_after(response: HttpResponse, now: datetime) -> float | None:
    """Return `Retry-After` in seconds, an hour at most; None when it is absent or senseless."""
    wait = wait_of(response.headers.get("retry-after", ""), response.headers.get("date", ""), now)
    return None if wait is None else min(wait, MAX_RETRY_AFTER_S)


def wait_of(retry_after: str, date: str, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` names in either of its forms; None when it is absent or senseless.

    The date form is compared with the provider's own clock where it sends one in `Date`, since ours may differ.
    """
    text = retry_after.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until, said = _date(text), _date(date)
    return None if until is None else max((until - (said or now)).total_seconds(), 0.0)


def _date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _code(response: HttpResponse, codes: Codes) -> str:
    for pointer in codes.codes:
        value = at(response.json, pointer)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    return ""
