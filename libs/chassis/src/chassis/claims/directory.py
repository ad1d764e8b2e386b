"""The claim-check store in a directory. Must never leave half a body under its name."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from chassis.claims.store import checked, missing, name_of, unavailable, undamaged


class DirectoryClaims:
    """Bodies in a directory that all services of one host share (a mounted volume otherwise)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, body: bytes) -> str:
        """Store a body and return its name; durable when it returns. See `ClaimStore`."""
        name = name_of(body)
        try:
            await asyncio.to_thread(self._write, self._path(name), body)
        except OSError as error:
            raise unavailable(error) from error
        return name

    async def get(self, name: str) -> bytes:
        """Return a body by its name. See `ClaimStore`."""
        path = self._path(checked(name))
        try:
            body = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            raise missing() from None
        except OSError as error:
            raise unavailable(error) from error
        return undamaged(name, body)

    async def sweep(self, older_than_s: float) -> int:
        """Delete old bodies. See `ClaimStore`."""
        try:
            return await asyncio.to_thread(self._sweep, older_than_s)
        except OSError as error:
            raise unavailable(error) from error

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
