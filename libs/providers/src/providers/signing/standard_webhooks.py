"""The Standard Webhooks scheme, versions v1 (HMAC-SHA256) and v1a (Ed25519).

Spec: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md. Must never take a
public key from the request.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from providers.manifest.signatures import StandardWebhooksSignature
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
from providers.signing.stamps import within, written

_HMAC_PREFIX: Final = "whsec_"
_PRIVATE_PREFIX: Final = "whsk_"
_PUBLIC_PREFIX: Final = "whpk_"
_MIN_SECRET_BYTES: Final = 24
_MAX_SECRET_BYTES: Final = 64
_ED25519_BYTES: Final = 32


class StandardWebhooksVerifier(Scheme):
    """The scheme `standard_webhooks`. A secret with `whpk_` verifies v1a, any other one v1."""

    def __init__(self, signature: StandardWebhooksSignature, tolerance_s: int) -> None:
        self._prefixes = tuple(prefix.lower() for prefix in signature.prefixes)
        self._send_as = signature.prefixes[-1]
        self._tolerance_s = tolerance_s

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        names = self._names(request)
        message_id, stamp, value = (only(request, name) for name in names)
        entries = [entry.partition(",") for entry in value.split(" ")]
        candidates = [(version, raw(text)) for version, _, text in entries if version in {"v1", "v1a"}]
        if not 1 <= len(candidates) <= MAX_SIGNATURES:
            raise Refused("malformed_signature")
        message = b".".join((raw(message_id), raw(stamp), request.body))
        key_id = matching_key(secrets, _key, partial(_matches, message, candidates))
        signed_at = within(stamp, "s", now, self._tolerance_s)
        return Verified(key_id, signed_at, tuple(zip(names, (message_id, stamp, value), strict=True)))

    def generate(self) -> KeyPair:
        """Return one random v1 secret for both ends."""
        text = _HMAC_PREFIX + base64.b64encode(bytes.fromhex(random_text())).decode()
        return KeyPair(text, text)

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` unless the text is base64 of 24 to 64 bytes, or `whpk_` and base64 of a public key."""
        if _key(value) is None:
            raise bad_secret("expected whsec_ and base64 of 24 to 64 bytes, or whpk_ and base64 of a public key")

    def _sign(self, draft: Draft) -> None:
        if not draft.message_id:
            raise ValueError("Standard Webhooks signs a message id")
        stamp = written(draft.now, "s")
        message = b".".join((draft.message_id.encode(), stamp.encode(), draft.request.body))
        if draft.secret.startswith(_PRIVATE_PREFIX):
            seed = strict_base64(draft.secret.removeprefix(_PRIVATE_PREFIX))
            if seed is None or len(seed) < _ED25519_BYTES:
                raise bad_secret("whsk_ is followed by base64 of an Ed25519 key")
            digest = Ed25519PrivateKey.from_private_bytes(seed[:_ED25519_BYTES]).sign(message)
            version = "v1a"
        else:
            key = _key(draft.secret)
            if not isinstance(key, bytes):
                raise bad_secret("the signing secret begins with whsec_ or whsk_")
            digest = hmac.digest(key, message, "sha256")
            version = "v1"
        draft.header(f"{self._send_as}id", draft.message_id)
        draft.header(f"{self._send_as}timestamp", stamp)
        draft.header(f"{self._send_as}signature", f"{version},{base64.b64encode(digest).decode()}")

    def _names(self, request: InboundRequest) -> tuple[str, str, str]:
        # One header of a set commits to the whole set: an attacker must not mix a signed id with an unsigned one.
        for prefix in self._prefixes:
            names = (f"{prefix}id", f"{prefix}timestamp", f"{prefix}signature")
            if any(name in request.headers for name in names):
                return names
        raise Refused("missing_signature")


@lru_cache(maxsize=4096)
def _key(value: str) -> bytes | Ed25519PublicKey | None:
    if value.startswith(_PUBLIC_PREFIX):
        data = strict_base64(value.removeprefix(_PUBLIC_PREFIX))
        if data is None or len(data) != _ED25519_BYTES:
            return None
        return Ed25519PublicKey.from_public_bytes(data)
    data = strict_base64(value.removeprefix(_HMAC_PREFIX))
    return data if data is not None and _MIN_SECRET_BYTES <= len(data) <= _MAX_SECRET_BYTES else None


def _matches(message: bytes, candidates: list[tuple[str, bytes]], key: bytes | Ed25519PublicKey) -> bool:
    if isinstance(key, bytes):
        expected = base64.b64encode(hmac.digest(key, message, "sha256"))
        found = [hmac.compare_digest(expected, text) for version, text in candidates if version == "v1"]
    else:
        found = [_verifies(key, text, message) for version, text in candidates if version == "v1a"]
    return any(found)


def _verifies(key: Ed25519PublicKey, text: bytes, message: bytes) -> bool:
    signature = strict_base64(text)
    if signature is None:
        return False
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
