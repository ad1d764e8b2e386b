"""Secrets whose data keys a key management service wraps, beside those of the local keyring.

A tenant's data key seals many of its values for an hour; every value is bound to its place, every data key to its
tenant. The service is asked once per data key and a while, not once per call. Must never write a data key anywhere.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chassis.clock import Clock
from chassis.sealing.keyring import Keyring, SealError
from contracts.errors import Transient

# How long an unwrapped data key is kept, and how long before that it is asked for again, in seconds: the service may
# be away for eight minutes before a call notices.
KEPT_S: Final = 600.0
EARLY_S: Final = 480.0
# How long, and for how many values, one data key seals: far below the 2^32 of AES-GCM with random nonces.
IN_USE_S: Final = 3600.0
MAX_SEALS: Final = 2**20
MAX_KEPT: Final = 50_000
FORM: Final = 1
_NONCE_BYTES: Final = 12
_HEADER: Final = 6  # form, three bytes of key version, two of the wrapped data key's length


class KeyEncryption(Protocol):
    """A key management service. `associated` has to be the same again, or nothing is unwrapped."""

    async def wrap(self, data_key: bytes, associated: bytes) -> tuple[int, bytes]:
        """Return the version of the key that was used and the wrapped data key; raises `Transient`."""
        ...

    async def unwrap(self, wrapped: bytes, associated: bytes) -> bytes:
        """Return a data key; raises `SealError` when it is refused for good, else `Transient`."""
        ...

    async def newest(self) -> int:
        """Return the version that `wrap` uses now; raises `Transient`."""
        ...


class Sealer(Protocol):
    """Seals values of owners. `seal` and `open` need what `prepare` has fetched; they never wait."""

    async def prepare(self, owner: str, sealed: Iterable[bytes]) -> None:
        """Fetch what it takes to open these values of an owner and to seal others; raises `Transient`, `SealError`."""
        ...

    def seal(self, plain: str, place: str, owner: str) -> bytes:
        """Return `plain` encrypted for `place`."""
        ...

    def open(self, sealed: bytes, place: str, owner: str) -> str:
        """Return the plain text of a value sealed for `place`; raises `SealError`."""
        ...

    async def rewrap(self, sealed: bytes, place: str, owner: str) -> bytes:
        """Return the same value under the newest key; raises `SealError` and `Transient`."""
        ...

    async def newest(self) -> int:
        """Return the first four bytes, as a number, of values under the newest key: older ones have a lower one."""
        ...


class LocalSealer:
    """The keyring file: nothing to fetch."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def prepare(self, owner: str, sealed: Iterable[bytes]) -> None:
        """Do nothing."""

    def seal(self, plain: str, place: str, owner: str) -> bytes:  # noqa: ARG002 (protocol)
        """Return `plain` encrypted for `place`."""
        return self._keyring.seal(plain, place)

    def open(self, sealed: bytes, place: str, owner: str) -> str:  # noqa: ARG002 (protocol)
        """Return the plain text of a value sealed for `place`; raises `SealError`."""
        return self._keyring.open(sealed, place)

    async def rewrap(self, sealed: bytes, place: str, owner: str) -> bytes:  # noqa: ARG002 (protocol)
        """Return the same value under the current key of the keyring; raises `SealError`."""
        return self._keyring.rewrap(sealed, place)

    async def newest(self) -> int:
        """Return the current version of the keyring."""
        return self._keyring.current


@dataclass(slots=True)
class _Kept:
    """A data key in memory, until then; `seals` is how many values it may still seal."""

    aead: AESGCM
    until: float
    tag: bytes = b""
    wrapped: bytes = b""
    seals: int = 0


class KmsSealer:
    """Data keys of a key management service; values that the keyring has sealed can still be opened."""

    def __init__(self, keyring: Keyring, keys: KeyEncryption, clock: Clock) -> None:
        self._local = keyring
        self._keys = keys
        self._clock = clock
        self._opened: dict[tuple[str, bytes], _Kept] = {}
        self._current: dict[str, _Kept] = {}
        self._flights: dict[tuple[str, bytes], asyncio.Task[None]] = {}

    async def prepare(self, owner: str, sealed: Iterable[bytes]) -> None:
        """Have the data keys of these values and one to seal with; asks the service for those that are missing.

        A service that is away is noticed when a key is no longer kept: then `Transient` is raised.
        """
        wrapped = {_parts(one)[1] for one in sealed if one and one[0] == FORM}
        fetches = [
            self._once((owner, one), self._opened.get((owner, one)), EARLY_S, self._fetch(owner, one))
            for one in wrapped
        ]
        current = self._current.get(owner)
        await asyncio.gather(*fetches, self._once((owner, b""), current, EARLY_S, self._renew(owner)))

    def seal(self, plain: str, place: str, owner: str) -> bytes:
        """Return `plain` encrypted for `place`; raises `SealError` where `prepare` was not called for this owner."""
        kept = self._current.get(owner)
        if kept is None or kept.until < self._clock.monotonic() or kept.seals <= 0:
            raise SealError("no data key to seal with is at hand")
        kept.seals -= 1
        nonce = os.urandom(_NONCE_BYTES)
        return kept.tag + _sized(kept.wrapped) + nonce + kept.aead.encrypt(nonce, plain.encode(), place.encode())

    def open(self, sealed: bytes, place: str, owner: str) -> str:
        """Return the plain text of a value sealed for `place`; raises `SealError`, also without its data key."""
        if not sealed or sealed[0] != FORM:
            return self._local.open(sealed, place)
        _, wrapped, rest = _parts(sealed)
        kept = self._opened.get((owner, wrapped))
        if kept is None or kept.until < self._clock.monotonic():
            raise SealError("the value's data key is not at hand")
        try:
            return kept.aead.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], place.encode()).decode()
        except InvalidTag:
            raise SealError("sealed value was altered or moved") from None

    async def rewrap(self, sealed: bytes, place: str, owner: str) -> bytes:
        """Return the same value with its data key under the service's newest key.

        A value of the keyring is sealed anew: its data key was never the service's.
        """
        if not sealed or sealed[0] != FORM:
            plain = self._local.open(sealed, place)
            await self.prepare(owner, ())
            return self.seal(plain, place, owner)
        _, wrapped, rest = _parts(sealed)
        # The service's own re-wrap takes no associated data (Vault issue 31791), so both steps are made here.
        data_key = await self._keys.unwrap(wrapped, _associated(owner))
        version, again = await self._keys.wrap(data_key, _associated(owner))
        return _tag(version) + _sized(again) + rest

    async def newest(self) -> int:
        """Return what the values under the service's newest key begin with; more than any of the keyring's."""
        return int.from_bytes(_tag(await self._keys.newest()), "big")

    async def _once(
        self, key: tuple[str, bytes], kept: _Kept | None, early_s: float, fetch: Coroutine[Any, Any, None]
    ) -> None:
        """Fetch a data key unless it is at hand; many that want it wait for one call."""
        now = self._clock.monotonic()
        if kept is not None and now < kept.until - early_s and (key[1] or kept.seals > 0):
            fetch.close()
            return
        task = self._flights.get(key)
        if task is None:
            task = self._flights[key] = asyncio.create_task(fetch)
            task.add_done_callback(lambda done: self._ended(key, done))
        else:
            fetch.close()
        try:
            await asyncio.shield(task)
        except Transient:
            if kept is None or kept.until < self._clock.monotonic() or not (key[1] or kept.seals > 0):
                raise

    def _ended(self, key: tuple[str, bytes], done: asyncio.Task[None]) -> None:
        self._flights.pop(key, None)
        # Whoever waited has seen the error; an abandoned task would be reported as one never retrieved.
        if not done.cancelled():
            done.exception()

    async def _fetch(self, owner: str, wrapped: bytes) -> None:
        data_key = await self._keys.unwrap(wrapped, _associated(owner))
        self._keep(owner, wrapped, AESGCM(data_key))

    async def _renew(self, owner: str) -> None:
        data_key = AESGCM.generate_key(bit_length=256)
        version, wrapped = await self._keys.wrap(data_key, _associated(owner))
        until = self._clock.monotonic() + IN_USE_S
        if len(self._current) >= MAX_KEPT:
            self._current.pop(next(iter(self._current)))
        self._current[owner] = _Kept(AESGCM(data_key), until, _tag(version), wrapped, MAX_SEALS)
        self._keep(owner, wrapped, AESGCM(data_key))

    def _keep(self, owner: str, wrapped: bytes, aead: AESGCM) -> None:
        if len(self._opened) >= MAX_KEPT:
            self._opened.pop(next(iter(self._opened)))
        self._opened[owner, wrapped] = _Kept(aead, self._clock.monotonic() + KEPT_S)


def _associated(owner: str) -> bytes:
    return f"patchbay data key|{owner}".encode()


def _tag(version: int) -> bytes:
    return bytes([FORM]) + version.to_bytes(3, "big")


def _sized(wrapped: bytes) -> bytes:
    return len(wrapped).to_bytes(2, "big") + wrapped


def _parts(sealed: bytes) -> tuple[int, bytes, bytes]:
    """Return key version, wrapped data key and the rest: nonce and ciphertext."""
    end = _HEADER + int.from_bytes(sealed[4:_HEADER], "big")
    if len(sealed) <= end + _NONCE_BYTES:
        raise SealError("sealed value is too short")
    return int.from_bytes(sealed[1:4], "big"), sealed[_HEADER:end], sealed[end:]
