"""Keyed tags that stand for people in the database: they can be compared, and not guessed back without the keyring.

Customer ids, names, birth dates and digits leave memory as tags only. Each key of the keyring gives a pepper; new tags
use the current one, look-ups try all, so that a rotated keyring still finds everybody.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from chassis.sealing import Keyring
from verification.checks import Identity
from verification.rules import normal_name

_PURPOSE: Final = "verification/tags/1"
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Tag:
    """One value under every pepper: `current` is what is stored, `all` what is looked for."""

    all: tuple[bytes, ...]

    @property
    def current(self) -> bytes:
        """The tag under the current key."""
        return self.all[0]


class Tagger:
    """Makes tags. One per process."""

    def __init__(self, keyring: Keyring) -> None:
        self._peppers = tuple(keyring.derive(_PURPOSE, version) for version in keyring.versions)

    def customer(self, tenant: str, customer_id: str) -> Tag:
        """Return the tag of a tenant's customer."""
        return self._tag("customer", tenant, customer_id)

    def identity(self, tenant: str, identity: Identity) -> Tag:
        """Return one tag over all parts of an identity: a lone birth date or last four digits could be guessed."""
        return self._tag(
            "identity",
            tenant,
            normal_name(identity.full_name),
            identity.date_of_birth.isoformat(),
            identity.id_last4,
            identity.state,
        )

    def _tag(self, *parts: str) -> Tag:
        # Length prefixes keep ("ab", "c") and ("a", "bc") apart.
        encoded = (part.encode() for part in parts)
        message = b"".join(len(part).to_bytes(_LENGTH_BYTES, "big") + part for part in encoded)
        return Tag(tuple(hmac.digest(pepper, message, hashlib.sha256) for pepper in self._peppers))
