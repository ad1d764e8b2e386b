"""What a simulated sender with fetched keys holds: its private key and the receiver's identity, as one text.

Used by tests, the sandbox and the CLI; production paths only verify.
"""

from __future__ import annotations

import base64
import json
import secrets as random
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from providers.sdk import KeyPair
from providers.signing.base import bad_secret, strict_base64

_RSA_BITS = 2048
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def new_keys(identity: str, *, elliptic: bool = False) -> KeyPair:
    """Return a fresh sender for a receiver's identity, which is what the receiver has for a secret."""
    key: PrivateKey = (
        ec.generate_private_key(ec.SECP256R1())
        if elliptic
        else rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    )
    data = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    text = {"identity": identity, "kid": random.token_hex(8), "key": base64.b64encode(data).decode()}
    return KeyPair(json.dumps(text), identity)


def sender(secret: str) -> tuple[str, str, PrivateKey]:
    """Return identity, key id and private key of a sender; raises `Invalid` (`bad_secret`)."""
    try:
        text: Any = json.loads(secret)
        data = strict_base64(str(text["key"]))
        key = _loaded(data or b"")
        identity, kid = str(text["identity"]), str(text["kid"])
    except (ValueError, KeyError, TypeError):
        raise bad_secret("the signing secret is JSON with identity, kid and key") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise bad_secret("the signing key is neither RSA nor elliptic")
    return identity, kid, key


@lru_cache(maxsize=256)
def _loaded(data: bytes) -> object:
    # Loading an RSA key tests its primes, 50 ms; a sender signs with the same key again and again.
    return load_der_private_key(data, password=None)
