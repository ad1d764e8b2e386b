"""What all schemes share: strict reading of headers, constant work over the secrets, the replay window.

Must never compare signatures with `==` nor let hostile text raise anything but `Refused`.
"""

from __future__ import annotations

import base64
import binascii
import secrets as random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from contracts.errors import Invalid
from providers.sdk import InboundRequest, Refused, Secret

K = TypeVar("K")

# A sender that rotates keys lists two signatures; each costs a comparison per secret, so a hostile list must end.
MAX_SIGNATURES: Final = 8
# As strong as SHA-256, and inside the 24 to 64 bytes that Standard Webhooks demands.
SECRET_BYTES: Final = 32


def only(request: InboundRequest, name: str) -> str:
    """Return a header that must occur exactly once; raises `Refused` when it is absent, repeated or empty."""
    value = request.header(name)
    if value:
        return value
    raise Refused("malformed_signature" if request.headers.get(name.lower()) else "missing_signature")


def raw(text: str) -> bytes:
    """Return a header value as the bytes that were sent: HTTP headers are read as Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Refused("malformed_signature") from None


def strict_hex(text: str | bytes) -> bytes | None:
    """Return what lower-case hexadecimal stands for, or None: a second spelling of one value is refused."""
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        decoded = binascii.unhexlify(data)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return decoded if decoded.hex().encode() == data else None


def strict_base64(text: str | bytes) -> bytes | None:
    """Return what canonical base64 stands for, or None: a second spelling of one value is refused."""
    try:
        data = text.encode("ascii") if isinstance(text, str) else text
        decoded = binascii.a2b_base64(data, strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return decoded if base64.b64encode(decoded) == data else None


def matching_key(secrets: Sequence[Secret], load: Callable[[str], K | None], matches: Callable[[K], bool]) -> str:
    """Return the id of the first secret that matches, after trying all of them.

    Raises `Refused`: `no_secret` when none can be loaded, `bad_signature` when none matches.
    """
    keys = [(secret.key_id, key) for secret in secrets if (key := load(secret.value)) is not None]
    if not keys:
        raise Refused("no_secret")
    found = [key_id for key_id, key in keys if matches(key)]
    if not found:
        raise Refused("bad_signature")
    return found[0]


def window_of(table: Any, tolerance_s: int | None) -> int | None:
    """Return the window in seconds of a signature table, replaced by an endpoint's if the table knows a time at all."""
    elements = getattr(table, "elements", None)
    own: int | None = getattr(table, "tolerance_s", None)
    stamped = own is not None or getattr(table, "timestamp", None) is not None or (elements and elements.timestamp)
    return (tolerance_s or own) if stamped else None


def random_text() -> str:
    """Return a random secret of `SECRET_BYTES` bytes as hexadecimal text."""
    return random.token_hex(SECRET_BYTES)


def bad_secret(detail: str) -> Invalid:
    """Return the error for a secret that can never verify anything; `detail` must not quote it."""
    return Invalid("bad_secret", detail, field="secrets")
