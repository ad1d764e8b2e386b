"""ECDSA P-256 with SHA-256 over a timestamp header and the body.

Must never strip or re-serialise the body: published vectors end in CRLF, and that is signed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, partial

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from providers.manifest import EcdsaSignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, only, raw, strict_base64, within


class EcdsaVerifier:
    """The scheme `ecdsa_p256`. The secret is a public key: base64 SubjectPublicKeyInfo, with or without PEM armour."""

    def __init__(self, signature: EcdsaSignature, tolerance_s: int) -> None:
        self._header = signature.header
        self._timestamp_header = signature.timestamp_header
        self._tolerance_s = tolerance_s

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        value = only(request, self._header)
        stamp = only(request, self._timestamp_header)
        signature = strict_base64(raw(value))
        if signature is None:
            raise Refused("malformed_signature")
        key_id = matching_key(secrets, _public_key, partial(_verifies, signature, raw(stamp) + request.body))
        signed_at = within(stamp, now, self._tolerance_s)
        return Verified(key_id, signed_at, ((self._header.lower(), value), (self._timestamp_header.lower(), stamp)))

    def sign(
        self,
        body: bytes,
        *,
        url: str,  # noqa: ARG002 (the scheme does not sign it)
        secret: str,
        now: datetime,
        content_type: str = "application/json",
        message_id: str = "",  # noqa: ARG002 (nor an id)
    ) -> dict[str, str]:
        """Return the headers of a delivery; `secret` is the private key, base64 of PKCS #8."""
        data = strict_base64(secret)
        key = None if data is None else load_der_private_key(data, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise bad_secret("the signing secret is base64 of a PKCS #8 private key")
        stamp = str(int(now.timestamp()))
        signature = key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        return {
            "Content-Type": content_type,
            self._header: base64.b64encode(signature).decode(),
            self._timestamp_header: stamp,
        }

    def generate(self) -> KeyPair:
        """Return a fresh key pair: base64 PKCS #8 to sign with, base64 SubjectPublicKeyInfo to verify with."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return KeyPair(base64.b64encode(private).decode(), base64.b64encode(public).decode())

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` unless the text is a P-256 public key."""
        if _public_key(value) is None:
            raise bad_secret("expected the public key as base64 SubjectPublicKeyInfo on curve P-256")


@lru_cache(maxsize=4096)
def _public_key(value: str) -> ec.EllipticCurvePublicKey | None:
    text = "".join(line.strip() for line in value.splitlines() if not line.startswith("-----"))
    data = strict_base64(text)
    if not data:
        return None
    try:
        key = load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None


def _verifies(signature: bytes, message: bytes, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
