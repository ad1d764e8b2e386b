"""What every behaviour is made of: a parsed call, an answer, credentials.

Behaviours are synchronous: a request is applied whole or not at all, so no lock is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from providers.reading import parse_json

UNAUTHORISED: Final = 401
NOT_FOUND: Final = 404
_DIGEST_CHARS: Final = 12


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a simulated API; `path` is below the provider's base URL, header names are lower-case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def form(self) -> dict[str, str]:
        """The body as form fields; empty for anything else."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The body as JSON; raises `Invalid` (`undecodable_body`)."""
        return parse_json(self.body)

    @property
    def fingerprint(self) -> str:
        """A digest of what is asked for, to tell a repeated request from a reused key."""
        return hashlib.sha256(f"{self.method} {self.path}\n".encode() + self.body).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, JSON body and extra headers."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Behaviour(Protocol):
    """A simulated API. `operations` are those that it plays itself, though they may be declared as data."""

    operations: frozenset[str]

    def handle(self, call: Call) -> Answer:
        """Answer a call, applying what it asks for. May raise `Invalid` for a body that is no JSON."""
        ...

    def failure(self, status: int, detail: str) -> Any:
        """Return the body with which this vendor says `status`."""
        ...


@dataclass(slots=True)
class Remembered:
    """The first answer to an idempotency key, and a digest of the request that it belongs to."""

    fingerprint: str
    answer: Answer


def bearer_account(call: Call) -> str | None:
    """Return a stable name for the owner of a bearer token, or None without one; never the token."""
    kind, _, token = call.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        return None
    return hashlib.sha256(token.strip().encode()).hexdigest()[:_DIGEST_CHARS]


def basic_user(call: Call) -> str | None:
    """Return the user name of HTTP basic credentials, or None unless both user and password are there."""
    kind, _, encoded = call.headers.get("authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return user if kind.lower() == "basic" and user and password else None


def same(one: str, other: str) -> bool:
    """Compare two digests."""
    return hmac.compare_digest(one.encode(), other.encode())
