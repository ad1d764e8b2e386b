"""Typed reading of a provider's JSON, with errors that name the place, and keys cut to a provider's limits.

Must never quote a value in an error: payloads hold personal data.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from contracts.errors import Invalid

MIN_KEY_LENGTH = 22  # 128 bits in base64


def parse_json(data: bytes) -> Any:
    """Return a JSON document; raises `Invalid` (`undecodable_body`)."""
    try:
        # Values of webhooks hardly repeat, their keys do: a tenth less time than remembering both.
        return from_json(data, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        raise Invalid("undecodable_body", "the body is no JSON", field="/") from None


def at(document: Any, pointer: str) -> Any:
    """Return what a JSON pointer (RFC 6901) points at, or None when any part of the way is absent."""
    value = document
    for step in pointer.split("/")[1:]:
        if isinstance(value, dict):
            value = value.get(step.replace("~1", "/").replace("~0", "~"))
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def text(document: Any, pointer: str) -> str:
    """Return a non-empty string; raises `Invalid` (`unreadable_payload`)."""
    value = at(document, pointer)
    if isinstance(value, str) and value:
        return value
    raise Invalid("unreadable_payload", f"{pointer} is no text", field=pointer)


def first_text(document: Any, pointers: Iterable[str]) -> str | None:
    """Return the first non-empty string among several places, or None."""
    found = (at(document, pointer) for pointer in pointers)
    return next((value for value in found if isinstance(value, str) and value), None)


def integer(document: Any, pointer: str) -> int:
    """Return an integer, which a JSON boolean is not; raises `Invalid` (`unreadable_payload`)."""
    value = at(document, pointer)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise Invalid("unreadable_payload", f"{pointer} is no integer", field=pointer)


def instant(document: Any, pointer: str) -> datetime:
    """Return an RFC 3339 time in UTC; raises `Invalid` (`unreadable_payload`)."""
    try:
        value = datetime.fromisoformat(text(document, pointer))
    except ValueError:
        raise Invalid("unreadable_payload", f"{pointer} is no RFC 3339 time", field=pointer) from None
    if value.tzinfo is None:
        raise Invalid("unreadable_payload", f"{pointer} has no offset", field=pointer)
    return value.astimezone(UTC)


def unix_time(document: Any, pointer: str) -> datetime:
    """Return a Unix timestamp in seconds as a time; raises `Invalid` (`unreadable_payload`)."""
    try:
        return datetime.fromtimestamp(integer(document, pointer), UTC)
    except (OverflowError, OSError, ValueError):
        raise Invalid("unreadable_payload", f"{pointer} is no Unix time", field=pointer) from None


def fitting_key(key: str, max_length: int) -> str:
    """Return an idempotency key that fits: itself if short enough, else base64url of its SHA-256, cut.

    The same key always gives the same result. Raises `ValueError` below 22 characters, which hold 128 bits.
    """
    if max_length < MIN_KEY_LENGTH:
        raise ValueError(f"an idempotency key needs {MIN_KEY_LENGTH} characters")
    if len(key) <= max_length:
        return key
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()).decode().rstrip("=")[:max_length]
