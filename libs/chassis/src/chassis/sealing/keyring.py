"""Envelope encryption of secrets: AES-256-GCM with a data key per secret, wrapped by a key of the local keyring.

The associated data binds a sealed value to its place (tenant, owner, kind), so that it cannot be moved to another row.
Plain values live in memory only; must never log one.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_WRAPPED_BYTES: Final = _KEY_BYTES + 16  # the data key and its GCM tag
_VERSION_BYTES: Final = 4
# The first byte of a sealed value names its form: 0 is this module's, others are `envelopes`'s.
_MAX_VERSION: Final = 0xFFFFFF
_HEADER: Final = _VERSION_BYTES + _NONCE_BYTES + _WRAPPED_BYTES + _NONCE_BYTES


class SealError(Exception):
    """A sealed value cannot be opened: wrong place, unknown key version, or altered bytes."""


class Keyring:
    """Key-encryption keys by version. Sealing uses the current one, opening whichever the value names."""

    def __init__(self, keys: dict[int, bytes], current: int) -> None:
        if current not in keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise SealError(f"keyring needs {_KEY_BYTES}-byte keys and a current version among them")
        if any(not 0 <= version <= _MAX_VERSION for version in keys):
            raise SealError(f"key versions are from 0 to {_MAX_VERSION}")
        self._keys = {version: AESGCM(key) for version, key in keys.items()}
        self._raw = dict(keys)
        self.current = current

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read `{"current": 1, "keys": {"1": "<base64>"}}`; raises `SealError` when it is malformed."""
        try:
            document = json.loads(path.read_text())
            keys = {int(version): base64.b64decode(key, validate=True) for version, key in document["keys"].items()}
            return cls(keys, int(document["current"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SealError(f"keyring {path} is unreadable: {type(error).__name__}") from error

    @property
    def versions(self) -> list[int]:
        """The versions of all keys, the current one first, then newest first."""
        return sorted(self._raw, key=lambda version: (version != self.current, -version))

    def derive(self, purpose: str, version: int | None = None) -> bytes:
        """Return a 256-bit key for one purpose (HKDF-SHA256, RFC 5869), from the current key unless `version` is given.

        Equal for equal arguments, and useless for any other purpose. Raises `SealError` for an unknown version.
        """
        key = self._raw.get(self.current if version is None else version)
        if key is None:
            raise SealError("no key of this version in the keyring")
        return HKDF(SHA256(), _KEY_BYTES, salt=None, info=purpose.encode()).derive(key)

    def seal(self, plain: str, place: str) -> bytes:
        """Return `plain` encrypted for `place`: version, wrapped data key, nonce and ciphertext in one value."""
        data_key = AESGCM.generate_key(bit_length=_KEY_BYTES * 8)
        nonce, associated = os.urandom(_NONCE_BYTES), place.encode()
        sealed = AESGCM(data_key).encrypt(nonce, plain.encode(), associated)
        return self._wrapped(data_key, associated) + nonce + sealed

    def open(self, sealed: bytes, place: str) -> str:
        """Return the plain text of a value sealed for `place`; raises `SealError` without saying more."""
        data_key = self._data_key(sealed, place)
        nonce = sealed[_HEADER - _NONCE_BYTES : _HEADER]
        try:
            return AESGCM(data_key).decrypt(nonce, sealed[_HEADER:], place.encode()).decode()
        except InvalidTag:
            raise SealError("sealed value was altered or moved") from None

    def rewrap(self, sealed: bytes, place: str) -> bytes:
        """Return the same sealed value with its data key under the current key; the text is not opened.

        Raises `SealError`.
        """
        data_key = self._data_key(sealed, place)
        return self._wrapped(data_key, place.encode()) + sealed[_HEADER - _NONCE_BYTES :]

    def _wrapped(self, data_key: bytes, associated: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        wrapped = self._keys[self.current].encrypt(nonce, data_key, associated)
        return self.current.to_bytes(_VERSION_BYTES, "big") + nonce + wrapped

    def _data_key(self, sealed: bytes, place: str) -> bytes:
        if len(sealed) <= _HEADER:
            raise SealError("sealed value is too short")
        key = self._keys.get(int.from_bytes(sealed[:_VERSION_BYTES], "big"))
        if key is None:
            raise SealError("sealed with a key that is not in the keyring")
        nonce = sealed[_VERSION_BYTES : _VERSION_BYTES + _NONCE_BYTES]
        try:
            return key.decrypt(nonce, sealed[_VERSION_BYTES + _NONCE_BYTES : _HEADER - _NONCE_BYTES], place.encode())
        except InvalidTag:
            raise SealError("sealed value was altered or moved") from None
