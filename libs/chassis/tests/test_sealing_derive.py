"""Keys derived from the keyring: stable, one per purpose and version, never the key itself."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from chassis.sealing import Keyring, SealError

OLD, NEW = b"\x01" * 32, b"\x02" * 32


def test_a_derived_key_depends_on_purpose_and_version_only() -> None:
    keyring = Keyring({1: OLD, 2: NEW}, current=2)
    assert keyring.derive("tags") == keyring.derive("tags", 2) == Keyring({2: NEW}, current=2).derive("tags")
    assert len({keyring.derive("tags"), keyring.derive("other"), keyring.derive("tags", 1), OLD, NEW}) == 5


def test_derivation_is_hkdf_sha256() -> None:
    """Against an independent HMAC: extract with a zero salt, expand one block (RFC 5869 §2.2-2.3)."""

    extracted = hmac.digest(b"\x00" * 32, OLD, hashlib.sha256)
    expected = hmac.digest(extracted, b"tags\x01", hashlib.sha256)
    assert Keyring({1: OLD}, current=1).derive("tags") == expected


def test_the_current_version_comes_first() -> None:
    assert Keyring({1: OLD, 2: NEW, 3: NEW}, current=2).versions == [2, 3, 1]


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(SealError):
        Keyring({1: OLD}, current=1).derive("tags", 9)
