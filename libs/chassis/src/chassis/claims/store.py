"""What a claim-check store promises, whatever keeps it.

A body is written before the record that refers to it, so that a reference never dangles; a body without a record is
swept by age. Must never be asked for a name that is not a SHA-256: names become paths and keys.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, Protocol

from contracts.errors import Invalid, Transient
from contracts.events.gateway import BESIDE, DeliveryAttributes

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class ClaimStore(Protocol):
    """Bodies by their SHA-256; safe for concurrent use by any number of processes."""

    async def put(self, body: bytes) -> str:
        """Store a body durably and return its name; storing it again changes nothing but makes it young again.

        Raises `Transient` (`claim_store_unavailable`) when the store does not take it.
        """
        ...

    async def get(self, name: str) -> bytes:
        """Return a body by its name.

        Raises `Invalid` (`claim_missing`) for a name that is none or whose body was swept, or that no longer hashes to
        its name; `Transient` (`claim_store_unavailable`) when the store cannot be read.
        """
        ...

    async def sweep(self, older_than_s: float) -> int:
        """Delete bodies last stored more than `older_than_s` seconds ago; returns how many.

        Raises `Transient` (`claim_store_unavailable`); what was deleted until then is gone.
        """
        ...


def name_of(body: bytes) -> str:
    """Return the name under which a body is stored."""
    return hashlib.sha256(body).hexdigest()


def is_name(text: str) -> bool:
    """Tell whether a text can be the name of a body."""
    return _NAME.fullmatch(text) is not None


def checked(name: str) -> str:
    """Return a name that is one; raises `Invalid` (`claim_missing`) for any other text."""
    if not is_name(name):
        raise Invalid("claim_missing", "the claim is no SHA-256", field="claim")
    return name


def undamaged(name: str, body: bytes) -> bytes:
    """Return a body that is what its name says; raises `Invalid` (`claim_missing`) for any other."""
    if name_of(body) != name:
        raise Invalid("claim_missing", "the stored body is damaged", field="claim")
    return body


def missing() -> Invalid:
    """Return the error for a body that is not there."""
    return Invalid("claim_missing", "the body is not in the claim-check store", field="claim")


def unavailable(error: BaseException) -> Transient:
    """Return the error for a store that does not do its work; only the type of the cause travels."""
    return Transient("claim_store_unavailable", type(error).__name__)


async def event_bytes(store: ClaimStore, attributes: DeliveryAttributes, value: bytes) -> bytes:
    """Return an event's own bytes out of a delivery's record, fetching the body where it went by reference.

    Raises as `ClaimStore.get` and `DeliveryAttributes.payload` do.
    """
    beside, _, own = attributes.place.partition(":")
    if beside == BESIDE:
        return await store.get(own) if own else value
    if attributes.claim:
        value = await store.get(attributes.claim)
    return attributes.payload(value)
