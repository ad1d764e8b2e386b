"""What replies of the store said of one provider: how many workers share it, and whether its state was lost.

After a flush every worker tells what it knew last, and until all have had the time to (1.5 s) the safe share holds.
"""

from __future__ import annotations

from typing import Final

from sync_worker.limiter.policies import CallPath
from sync_worker.limiter.store import Reply

HEAL_S: Final = 1.5
_MICRO: Final = 1_000_000


class ProviderState:
    """One provider in one mode as this worker sees it. Times are monotonic seconds."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.version = 0
        self.heal_until = 0.0
        self.used_at = 0.0
        self.clock_offset = 0.0
        self._born = 0
        self._known: dict[CallPath, tuple[int, int, tuple[str, ...]]] = {}

    @property
    def paths(self) -> list[CallPath]:
        """The paths that the store was asked for."""
        return list(self._known)

    def forget(self, path: CallPath) -> None:
        """Drop what is known of a path."""
        self._known.pop(path, None)

    def to_tell(self, path: CallPath) -> tuple[str, ...]:
        """Return what the store may have lost of a path; nothing when its state is the one that we know."""
        born, version, known = self._known.get(path, (self._born, path.version, ()))
        return known if born != self._born and version == path.version else ()

    def take(self, path: CallPath, reply: Reply, now: float, *, told: bool) -> list[CallPath]:
        """Take a reply and return the paths that must tell the store what they knew before it was flushed."""
        self.clock_offset = reply.now / _MICRO - now
        self.heal_until = now + (reply.born - reply.now) / _MICRO + HEAL_S if reply.healing else 0.0
        if reply.healing:
            # Not everybody has said hello to a store that is new.
            self.workers = max(self.workers, reply.workers)
        elif reply.workers > 0:
            self.workers = reply.workers
        flushed = self._born not in {reply.born, 0}
        self._born = reply.born
        known = self._known.get(path)
        if known is None or told or known[0] == reply.born or known[1] != path.version:
            self._known[path] = (reply.born, path.version, reply.known)
        return [one for one, (born, _, _) in self._known.items() if born != reply.born] if flushed else []
