"""The local token issuer and the local keyring: made once, private to their owner; never for production."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm

from tools.dev.table import JWT_AUDIENCE, JWT_ISSUER

OPERATOR_ROLES: Final = ("admin", "operator", "viewer")
TOKEN_LIFETIME_S: Final = 30 * 24 * 60 * 60  # a developer's stack is often left running for weeks
_KEY_BYTES: Final = 32  # AES-256


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, replacing it whole."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


class Issuer:
    """An ES256 key pair in a folder: `key.pem` (private) and `jwks.json` (what the services read)."""

    def __init__(self, folder: Path) -> None:
        self.jwks = folder / "jwks.json"
        self._key_file = folder / "key.pem"

    def ensure(self) -> None:
        """Make the key pair if it is missing; idempotent. An interrupted earlier try is repaired."""
        self.jwks.parent.mkdir(parents=True, exist_ok=True)
        if not self._key_file.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_private(self._key_file, pem.decode())
        public = ECAlgorithm.to_jwk(self._key().public_key(), as_dict=True)
        public |= {"kid": self._key_id(), "use": "sig", "alg": "ES256"}
        self.jwks.write_text(json.dumps({"keys": [public]}, indent=2) + "\n")

    def token(self, roles: Sequence[str] = OPERATOR_ROLES, subject: str = "local-operator") -> str:
        """Sign a bearer token with these roles, good for `TOKEN_LIFETIME_S` seconds."""
        now = int(time.time())
        claims = {
            "iss": JWT_ISSUER,
            "aud": JWT_AUDIENCE,
            "sub": subject,
            "roles": list(roles),
            "iat": now,
            "exp": now + TOKEN_LIFETIME_S,
        }
        return jwt.encode(claims, self._key(), algorithm="ES256", headers={"kid": self._key_id()})

    def _key(self) -> ec.EllipticCurvePrivateKey:
        key = load_pem_private_key(self._key_file.read_bytes(), password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._key_file} holds no elliptic-curve key; remove it and run make up again")
        return key

    def _key_id(self) -> str:
        numbers = self._key().public_key().public_numbers()
        return hashlib.sha256(f"{numbers.x}:{numbers.y}".encode()).hexdigest()[:16]


def ensure_keyring(path: Path) -> None:
    """Make a keyring with one random 256-bit key if it is missing; idempotent, and never replaces a key."""
    if not path.exists():
        key = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        write_private(path, json.dumps({"current": 1, "keys": {"1": key}}) + "\n")
