"""Limits as answers state them: the headers of every dialect, read without side effects, and when to believe them.

Must never raise for a header that makes no sense: it then says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from providers.classify import wait_of

# A reset above this is an instant in Unix seconds, below it a number of seconds (health-monitor.md §4.7).
EPOCH_FROM: Final = 1e9
_EPOCH_MS_FROM: Final = 1e12
# An estimate is raised only when this many windows in a row allow more.
WINDOWS_TO_RAISE: Final = 3
_PREFIXES: Final = ("ratelimit-", "x-ratelimit-", "x-rate-limit-")
# An item of a structured-field list: a quoted name or a token, then parameters (RFC 9651).
_ITEM: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^;,\s]+)((?:\s*;\s*[a-z*][a-z0-9_.*-]*(?:=(?:"[^"]*"|[^;,\s]+))?)*)')
_PARAMETER: Final = re.compile(r";\s*([a-z*][a-z0-9_.*-]*)=(\"[^\"]*\"|[^;,\s]+)")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one answer said: units per window, units left, seconds to the reset, the window, and seconds to wait."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None
    window_s: float | None = None
    retry_after_s: float | None = None


_NOTHING: Final = Seen()


def parse(headers: Mapping[str, str], now: datetime) -> Seen:
    """Read the rate-limit headers of an answer; names are matched without regard to case.

    Of several windows the one with the smallest part left counts. Draft 10 of the IETF comes first, then its older
    forms, then the `X-` dialects.
    """
    known = {name.lower(): value for name, value in headers.items()}
    if not any("limit" in name or name == "retry-after" for name in known):
        return _NOTHING
    retry_after_s = wait_of(known.get("retry-after", ""), known.get("date", ""), now)
    found = _draft(known) or _combined(known.get("ratelimit", "")) or _separate(known, now) or Seen()
    return Seen(found.limit, found.remaining, found.reset_s, found.window_s, retry_after_s)


def _draft(known: Mapping[str, str]) -> Seen | None:
    """Read `RateLimit-Policy: "name";q=100;w=10` with `RateLimit: "name";r=50;t=5` (draft 10)."""
    policies = _items(known.get("ratelimit-policy", ""))
    states = _items(known.get("ratelimit", ""))
    found: list[Seen] = []
    for name in policies.keys() | states.keys():
        policy, state = policies.get(name, {}), states.get(name, {})
        seen = Seen(
            _number(policy.get("q")), _number(state.get("r")), _number(state.get("t")), _number(policy.get("w"))
        )
        if seen.limit is not None or seen.remaining is not None:
            found.append(seen)
    return min(found, key=_left, default=None)


def _combined(value: str) -> Seen | None:
    """Read `RateLimit: limit=100, remaining=50, reset=5` (drafts 4 to 7)."""
    pairs = dict(part.strip().split("=", 1) for part in value.split(",") if "=" in part and ";" not in part)
    limit, remaining = _number(pairs.get("limit")), _number(pairs.get("remaining"))
    if limit is None and remaining is None:
        return None
    return Seen(limit, remaining, _number(pairs.get("reset")))


def _separate(known: Mapping[str, str], now: datetime) -> Seen | None:
    """Read three headers, the limit perhaps as `100, 100;w=10` (draft 3)."""
    for prefix in _PREFIXES:
        text = known.get(f"{prefix}limit", "")
        limit, remaining = _number(text.split(",")[0]), _number(known.get(f"{prefix}remaining"))
        if limit is None and remaining is None:
            continue
        window = re.search(r";\s*w=(\d+)", text)
        reset_s = _number(known.get(f"{prefix}reset-after")) if prefix == "x-ratelimit-" else None
        if reset_s is None:
            reset_s = _until(_number(known.get(f"{prefix}reset")), now)
        return Seen(limit, remaining, reset_s, float(window[1]) if window else None)
    return None


def _items(value: str) -> dict[str, dict[str, str]]:
    return {
        match[1].strip('"'): {name: text.strip('"') for name, text in _PARAMETER.findall(match[2])}
        for match in _ITEM.finditer(value)
        if match[2]
    }


def _left(seen: Seen) -> float:
    if seen.remaining is None:
        return 1.0
    return seen.remaining / seen.limit if seen.limit else seen.remaining


def _until(reset: float | None, now: datetime) -> float | None:
    if reset is None or reset < EPOCH_FROM:
        return reset
    instant = reset / 1000 if reset >= _EPOCH_MS_FROM else reset
    return max(0.0, instant - now.timestamp())


def _number(text: str | None) -> float | None:
    """Return a finite number that is not negative, else None."""
    try:
        value = float((text or "").strip())
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None


class LimitEstimate:
    """A limit as answers state it: lowered at once, raised only after three windows in a row that allow more."""

    def __init__(self) -> None:
        self.value: float | None = None
        self._higher: float | None = None
        self._windows: set[int] = set()

    def observe(self, limit: float, window: int) -> float:
        """Take the limit that an answer in the numbered window stated, and return what to believe."""
        if self.value is None or limit <= self.value:
            self.value = limit
            self._higher = None
            self._windows.clear()
            return self.value
        self._higher = limit if self._higher is None else min(self._higher, limit)
        self._windows.add(window)
        if len(self._windows) >= WINDOWS_TO_RAISE:
            self.value, self._higher = self._higher, None
            self._windows.clear()
        return self.value
