"""HMAC, or a plain digest with the secret in it, over a template of parts; the signature in headers, body or query.

Must never decode the body where the template says `{body}`: the bytes as received are what was signed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final

from contracts.errors import Invalid
from providers.manifest.signatures import HmacSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import (
    MAX_SIGNATURES,
    bad_secret,
    matching_key,
    only,
    random_text,
    raw,
    strict_base64,
)
from providers.signing.draft import Draft, Scheme
from providers.signing.message import Reads, Stamp, Template, read_or_refuse
from providers.sources import Reading, reader

# A sender with several keys numbers its headers; each costs one comparison per secret.
MAX_NUMBERED_HEADERS: Final = 32
_ENCODE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "hex": lambda digest: digest.hex().encode(),
    "base64": base64.b64encode,
}


class HmacVerifier(Scheme):
    """The schemes `hmac` and `digest`. Digests are compared in their encoding: every other spelling is wrong."""

    def __init__(self, signature: HmacSignature, prefix: str, tolerance_s: int | None, reads: Reads) -> None:
        self._signature = signature
        self._secret_prefix = prefix
        self._encode = _ENCODE[signature.encoding]
        self._prefix = signature.prefix.encode()
        self._reads = reads
        self._template = Template(signature.template, reads)
        self._stamp = Stamp(signature.timestamp, signature.timestamp_unit, tolerance_s, reads)
        self._names = _header_names(signature)
        self._place = reader(signature.signature, reads.options) if signature.signature else None
        self._elements = signature.elements
        # The ordinary case, one header of a fixed name, is worth its own way: it is most of all deliveries.
        ordinary = self._place is None and len(self._names) == 1
        self._only_header = self._names[0] if ordinary else None

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        if self._signature.items is not None:
            return Verified(matching_key(secrets, self._key, self._items_match(request)), None, ())
        reading = self._reads.of(request)
        if self._only_header is not None:
            value = only(request, self._only_header)
            stamp, candidates = self._listed(value) if self._elements else ("", [self._candidate(value)])
            signed = [(self._only_header, value)]
        else:
            signed, stamp, candidates = self._located(reading)
        if not stamp:
            stamp = self._stamp.read(reading)
            if self._stamp.header is not None:
                signed.append((self._stamp.header.lower(), stamp))
        signed += [(name.lower(), text) for name in self._template.headers if (text := request.header(name))]
        stamp_bytes = raw(stamp)
        if self._template.names_secret:
            matches = partial(self._digest_matches, reading, stamp_bytes, candidates)
        else:
            matches = partial(self._matches, self._template.fill(reading, stamp_bytes), candidates)
        key_id = matching_key(secrets, self._key, matches)
        at = self._stamp.check(stamp, now)
        return Verified(key_id, at, tuple(signed) if len(signed) == 1 else tuple(dict.fromkeys(signed)))

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

    def _located(self, reading: Reading) -> tuple[list[tuple[str, str]], str, list[bytes]]:
        """Return the signature headers, the timestamp in them if it is there, and the candidate digests."""
        if self._place is not None:
            text = read_or_refuse(self._place, reading)
            if text is None:
                raise Refused("missing_signature")
            return [], "", [self._candidate(text)]
        signed = [(name, only(reading.request, name)) for name in self._present(reading.request)]
        if self._signature.elements is not None:
            stamp, candidates = self._listed(signed[0][1])
            return signed, stamp, candidates
        return signed, "", [self._candidate(text) for _, text in signed]

    def _present(self, request: InboundRequest) -> list[str]:
        """Return the signature headers to read; several alternative names are never mixed."""
        found = [name for name in self._names if name in request.headers]
        if not found:
            raise Refused("missing_signature")
        numbered = isinstance(self._signature.header, str) and self._signature.header.endswith("#")
        return found if numbered else found[:1]

    def _candidate(self, text: str) -> bytes:
        candidate = raw(text)
        if not candidate.startswith(self._prefix):
            raise Refused("malformed_signature")
        return candidate.removeprefix(self._prefix)

    def _listed(self, value: str) -> tuple[str, list[bytes]]:
        elements = self._signature.elements
        assert elements is not None  # noqa: S101 (the caller has looked)
        pairs = [element.partition("=") for element in value.split(elements.separator)]
        candidates = [self._candidate(text) for name, _, text in pairs if name == elements.signature]
        stamps = [text for name, _, text in pairs if elements.timestamp and name == elements.timestamp]
        if len(stamps) != bool(elements.timestamp) or not 1 <= len(candidates) <= MAX_SIGNATURES:
            raise Refused("malformed_signature")
        if stamps and not stamps[0]:
            raise Refused("malformed_signature")
        return stamps[0] if stamps else "", candidates

    def _items_match(self, request: InboundRequest) -> Callable[[bytes], bool]:
        """Return the check that a key signed every item; raises `Refused` when there is none or one is unsigned."""
        try:
            items = self._reads.of(request).items((self._signature.items or "",))
        except Invalid:
            raise Refused("undecodable_body") from None
        if not items:
            raise Refused("missing_signature")
        pairs = [(self._template.fill(item, b""), self._located(item)[2]) for item in items]
        return lambda key: all([self._matches(message, found, key) for message, found in pairs])  # noqa: C419

    def _digest_matches(self, reading: Reading, stamp: bytes, candidates: list[bytes], key: bytes) -> bool:
        message = self._template.fill(reading, stamp, key)
        expected = self._encode(hashlib.new(self._signature.algorithm, message).digest())
        return any([hmac.compare_digest(expected, candidate) for candidate in candidates])  # noqa: C419 (no early exit)

    def _matches(self, message: bytes, candidates: list[bytes], key: bytes) -> bool:
        expected = self._encode(hmac.digest(key, message, self._signature.algorithm))
        return any([hmac.compare_digest(expected, candidate) for candidate in candidates])  # noqa: C419 (no early exit)

    def _sign(self, draft: Draft) -> None:
        key = self._key(draft.secret)
        if key is None:
            raise bad_secret("the signing secret cannot be decoded")
        if self._signature.items is not None:
            self._sign_items(draft, key)
            return
        self._template.complete(draft)
        elements = self._signature.elements
        in_elements = elements is not None and elements.timestamp != ""
        stamp = self._stamp.write(draft.now) if in_elements else self._stamp.put(draft)
        digest = self._digest(self._reads.of(draft.request), stamp.encode(), key)
        if elements is not None:
            pairs = [(elements.timestamp, stamp)] if in_elements else []
            pairs.append((elements.signature, self._signature.prefix + digest))
            digest = elements.separator.join(f"{name}={text}" for name, text in pairs)
        else:
            digest = self._signature.prefix + digest
        draft.put(self._signature.signature or f"header:{_sent_header(self._signature)}", digest)

    def _sign_items(self, draft: Draft, key: bytes) -> None:
        place = (self._signature.signature or "").removeprefix("body:")
        for item in self._reads.of(draft.request).items((self._signature.items or "",)):
            digest = self._signature.prefix + self._digest(item, b"", key)
            draft.put(f"body:{item.path}{place}", digest)

    def _digest(self, reading: Reading, stamp: bytes, key: bytes) -> str:
        if self._template.names_secret:
            message = self._template.fill(reading, stamp, key)
            return self._encode(hashlib.new(self._signature.algorithm, message).digest()).decode()
        message = self._template.fill(reading, stamp)
        return self._encode(hmac.digest(key, message, self._signature.algorithm)).decode()


def _header_names(signature: HmacSignature) -> tuple[str, ...]:
    if signature.header is None:
        return ()
    if isinstance(signature.header, tuple):
        return tuple(name.lower() for name in signature.header)
    if signature.header.endswith("#"):
        stem = signature.header.lower().removesuffix("#")
        return tuple(f"{stem}{number}" for number in range(1, MAX_NUMBERED_HEADERS + 1))
    return (signature.header.lower(),)


def _sent_header(signature: HmacSignature) -> str:
    header = signature.header if isinstance(signature.header, str) else (signature.header or ("",))[0]
    return header.replace("#", "1")
