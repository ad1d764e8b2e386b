"""HMAC over a template of parts, in a plain header or a `t=…,v1=…` list.

Must never decode the body: the bytes as received are what was signed.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from providers.manifest import HmacSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import (
    MAX_SIGNATURES,
    bad_secret,
    matching_key,
    only,
    random_text,
    raw,
    strict_base64,
    within,
)

_ENCODE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "hex": lambda digest: digest.hex().encode(),
    "base64": base64.b64encode,
}


class HmacVerifier:
    """The scheme `hmac`. Digests are compared in the encoding of the header, which makes every other spelling wrong."""

    def __init__(self, signature: HmacSignature, prefix: str, tolerance_s: int | None) -> None:
        self._signature = signature
        self._secret_prefix = prefix
        self._tolerance_s = tolerance_s
        self._encode = _ENCODE[signature.encoding]
        self._prefix = signature.prefix.encode()
        # "{timestamp}.{body}" -> [("", "timestamp"), (".", "body")], then the literal end.
        pieces = re.split(r"\{(\w+)\}", signature.template)
        self._pieces = [piece if i % 2 else piece.encode() for i, piece in enumerate(pieces)]

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        value = only(request, self._signature.header)
        signed = [(self._signature.header.lower(), value)]
        stamp, candidates = self._read(value)
        if self._signature.timestamp_header is not None:
            stamp = only(request, self._signature.timestamp_header)
            signed.append((self._signature.timestamp_header.lower(), stamp))
        message_id = ""
        if self._signature.id_header is not None:
            message_id = only(request, self._signature.id_header)
            signed.append((self._signature.id_header.lower(), message_id))
        message = self._message(request.body, request.url, raw(stamp), raw(message_id))
        key_id = matching_key(secrets, self._key, partial(self._matches, message, candidates))
        signed_at = None if self._tolerance_s is None else within(stamp, now, self._tolerance_s)
        return Verified(key_id, signed_at, tuple(signed))

    def sign(
        self,
        body: bytes,
        *,
        url: str,
        secret: str,
        now: datetime,
        content_type: str = "application/json",
        message_id: str = "",
    ) -> dict[str, str]:
        """Return the headers of a delivery; see `Verifier.sign`."""
        key = self._key(secret)
        if key is None:
            raise bad_secret("the signing secret cannot be decoded")
        stamp = str(int(now.timestamp()))
        message = self._message(body, url, stamp.encode(), message_id.encode("latin-1"))
        digest = self._encode(hmac.digest(key, message, self._signature.algorithm)).decode()
        elements = self._signature.elements
        value = (
            f"{elements.timestamp}={stamp},{elements.signature}={digest}"
            if elements is not None
            else self._signature.prefix + digest
        )
        headers = {"Content-Type": content_type, self._signature.header: value}
        if self._signature.timestamp_header is not None:
            headers[self._signature.timestamp_header] = stamp
        if self._signature.id_header is not None:
            headers[self._signature.id_header] = message_id
        return headers

    def generate(self) -> KeyPair:
        """Return one random secret for both ends."""
        text = random_text()
        if self._signature.key_encoding == "base64":
            text = base64.b64encode(bytes.fromhex(text)).decode()
        return KeyPair(self._secret_prefix + text, self._secret_prefix + text)

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` for an empty, undecodable or wrongly prefixed secret."""
        if not value.startswith(self._secret_prefix):
            raise bad_secret(f"the secret must be pasted whole, beginning with {self._secret_prefix}")
        if self._key(value) is None:
            raise bad_secret(f"the secret is empty or no {self._signature.key_encoding} text")

    def _key(self, value: str) -> bytes | None:
        if self._signature.key_encoding == "base64":
            return strict_base64(value) or None
        if self._signature.key_encoding == "hex":
            try:
                return bytes.fromhex(value) or None
            except ValueError:
                return None
        return value.encode("utf-8", "surrogatepass") or None

    def _read(self, value: str) -> tuple[str, list[bytes]]:
        """Return the timestamp element, if the header is a list, and the candidate digests."""
        elements = self._signature.elements
        if elements is None:
            candidate = raw(value)
            if not candidate.startswith(self._prefix):
                raise Refused("malformed_signature")
            return "", [candidate.removeprefix(self._prefix)]
        pairs = [element.partition("=") for element in value.split(",")]
        stamps = [text for name, _, text in pairs if name == elements.timestamp]
        candidates = [raw(text) for name, _, text in pairs if name == elements.signature]
        if len(stamps) != 1 or not 1 <= len(candidates) <= MAX_SIGNATURES:
            raise Refused("malformed_signature")
        return stamps[0], candidates

    def _message(self, body: bytes, url: str, stamp: bytes, message_id: bytes) -> bytes:
        parts = {"body": body, "url": url.encode("utf-8", "surrogatepass"), "timestamp": stamp, "id": message_id}
        return b"".join([piece if isinstance(piece, bytes) else parts[piece] for piece in self._pieces])

    def _matches(self, message: bytes, candidates: list[bytes], key: bytes) -> bool:
        expected = self._encode(hmac.digest(key, message, self._signature.algorithm))
        return any([hmac.compare_digest(expected, candidate) for candidate in candidates])  # noqa: C419 (no early exit)
