"""The claim-check store: bodies too large for a Kafka record, kept under their SHA-256 and named by reference.

Written before the record that refers to it, so that a reference never dangles; a body without a record is swept by age.
Must never be asked for a name that is not a SHA-256: names become paths.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from contracts.errors import Invalid, Transient
from contracts.events.gateway import BESIDE, DeliveryAttributes

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class ClaimStore:
    """Bodies in a directory that all services of one host share (a mounted volume otherwise)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, body: bytes) -> str:
        """Store a body durably and return its name; storing it again changes nothing.

        Raises `Transient` (`claim_store_unavailable`) when the disk does not take it.
        """
        name = hashlib.sha256(body).hexdigest()
        try:
            await asyncio.to_thread(self._write, self._path(name), body)
        except OSError as error:
            raise Transient("claim_store_unavailable", type(error).__name__) from error
        return name

    async def get(self, name: str) -> bytes:
        """Return a body by its name.

        Raises `Invalid` (`claim_missing`) for a name that is none or whose body was swept, or that no longer hashes to
        its name; `Transient` (`claim_store_unavailable`) when the store cannot be read.
        """
        if _NAME.fullmatch(name) is None:
            raise Invalid("claim_missing", "the claim is no SHA-256", field="claim")
        try:
            body = await asyncio.to_thread(self._path(name).read_bytes)
        except FileNotFoundError:
            raise Invalid("claim_missing", "the body is not in the claim-check store", field="claim") from None
        except OSError as error:
            raise Transient("claim_store_unavailable", type(error).__name__) from error
        if hashlib.sha256(body).hexdigest() != name:
            raise Invalid("claim_missing", "the stored body is damaged", field="claim")
        return body

    async def sweep(self, older_than_s: float) -> int:
        """Delete bodies last stored more than `older_than_s` seconds ago; returns how many."""
        return await asyncio.to_thread(self._sweep, older_than_s)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    @staticmethod
    def _write(path: Path, body: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            # Young again, so that the sweep does not take it from under a record that is just being written.
            os.utime(path)
            return
        scratch = path.with_suffix(f".{os.getpid()}.{id(body)}")
        with scratch.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def _sweep(self, older_than_s: float) -> int:
        # lint-skip: PB003 file times are the system clock's, whatever clock the service runs on
        limit = time.time() - older_than_s
        swept = 0
        for path in self._folder.glob("??/*"):
            # Another process may sweep the same folder.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < limit:
                    path.unlink()
                    swept += 1
        return swept


async def event_bytes(store: ClaimStore, attributes: DeliveryAttributes, value: bytes) -> bytes:
    """Return an event's own bytes out of a delivery's record, fetching the body where it went by reference.

    Raises as `ClaimStore.get` and `DeliveryAttributes.payload` do.
    """
    if attributes.claim and attributes.place != BESIDE:
        value = await store.get(attributes.claim)
    return attributes.payload(value)
