"""Progress lines and the closing table on a terminal or in a log; never colours or cursor tricks."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence


class Progress:
    """Prints what is being done, with the seconds since the start; thread-safe. `quiet` prints nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._begin = time.monotonic()
        self._mutex = threading.Lock()

    def tell(self, line: str) -> None:
        """Print one line."""
        if not self._quiet:
            with self._mutex:
                print(f"[{time.monotonic() - self._begin:6.1f} s] {line}", flush=True)

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Print that a step begins, and how long it took once it has succeeded."""
        self.tell(f"{what} ...")
        begin = time.monotonic()
        yield
        self.tell(f"{what}: done in {time.monotonic() - begin:.1f} s")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns under a header."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)
