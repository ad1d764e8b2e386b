"""ECDSA P-256 and Ed25519 over a template of parts, with the sender's public key as the secret.

Must never strip or re-serialise the body: published vectors end in CRLF, and that is signed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from providers.manifest.signatures import PublicKeySignature
from providers.sdk import InboundRequest, KeyPair, Refused, Secret, Verified
from providers.signing.base import bad_secret, matching_key, only, raw, strict_base64, strict_hex
from providers.signing.draft import Draft, Scheme
from providers.signing.message import Reads, Stamp, Template

_ED25519_BYTES = 32
Key = ec.EllipticCurvePublicKey | Ed25519PublicKey


class PublicKeyVerifier(Scheme):
    """The schemes `ecdsa_p256` and `ed25519`."""

    def __init__(self, signature: PublicKeySignature, tolerance_s: int | None, reads: Reads) -> None:
        self._header = signature.header
        self._decode: Callable[[bytes], bytes | None] = strict_hex if signature.encoding == "hex" else strict_base64
        self._encoding = signature.encoding
        self._is_ed25519 = signature.scheme == "ed25519"
        self._load: Callable[[str], Key | None] = _ed25519_key if self._is_ed25519 else _ecdsa_key
        self._reads = reads
        self._template = Template(signature.template, reads)
        self._stamp = Stamp(signature.timestamp, signature.timestamp_unit, tolerance_s, reads)

    def verify(self, request: InboundRequest, secrets: Sequence[Secret], now: datetime) -> Verified:
        """Return the matching key; see `Verifier.verify`."""
        if not secrets:
            raise Refused("no_secret")
        reading = self._reads.of(request)
        value = only(request, self._header)
        stamp = self._stamp.read(reading)
        signature = self._decode(raw(value))
        if signature is None:
            raise Refused("malformed_signature")
        message = self._template.fill(reading, raw(stamp))
        key_id = matching_key(secrets, self._load, partial(_verifies, signature, message))
        signed = [(self._header.lower(), value)]
        if self._stamp.header is not None:
            signed.append((self._stamp.header.lower(), stamp))
        return Verified(key_id, self._stamp.check(stamp, now), tuple(signed))

    def generate(self) -> KeyPair:
        """Return a fresh key pair; the private half is base64 of PKCS #8, or an Ed25519 seed."""
        if self._is_ed25519:
            seed = Ed25519PrivateKey.generate()
            public = seed.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            text = public.hex() if self._encoding == "hex" else base64.b64encode(public).decode()
            return KeyPair(base64.b64encode(seed.private_bytes_raw()).decode(), text)
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return KeyPair(base64.b64encode(private).decode(), base64.b64encode(info).decode())

    def check_secret(self, value: str) -> None:
        """Raise `Invalid` unless the text is a public key of the scheme's kind."""
        if self._load(value) is None:
            kind = "32 bytes in hex or base64" if self._is_ed25519 else "base64 SubjectPublicKeyInfo on curve P-256"
            raise bad_secret(f"expected the public key as {kind}")

    def _sign(self, draft: Draft) -> None:
        stamp = self._stamp.put(draft)
        self._template.complete(draft)
        message = self._template.fill(self._reads.of(draft.request), stamp.encode())
        signature = _signature(draft.secret, message, is_ed25519=self._is_ed25519)
        text = signature.hex() if self._encoding == "hex" else base64.b64encode(signature).decode()
        draft.header(self._header, text)


def _signature(secret: str, message: bytes, *, is_ed25519: bool) -> bytes:
    data = strict_base64(secret)
    if is_ed25519:
        if data is None or len(data) != _ED25519_BYTES:
            raise bad_secret("the signing secret is base64 of an Ed25519 seed")
        return Ed25519PrivateKey.from_private_bytes(data).sign(message)
    key = None if data is None else load_der_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise bad_secret("the signing secret is base64 of a PKCS #8 private key")
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


@lru_cache(maxsize=4096)
def _ed25519_key(value: str) -> Ed25519PublicKey | None:
    data = strict_hex(value) or strict_base64(value)
    return Ed25519PublicKey.from_public_bytes(data) if data is not None and len(data) == _ED25519_BYTES else None


@lru_cache(maxsize=4096)
def _ecdsa_key(value: str) -> ec.EllipticCurvePublicKey | None:
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


def _verifies(signature: bytes, message: bytes, key: Key) -> bool:
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
