"""How the demo talks, waits and keeps score: numbered chapters, polls with deadlines, stations seen or missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from rich.console import Console
from rich.markup import escape

from patchbay.output import table

T = TypeVar("T")
POLL_S: Final = 0.2
# Of one step across services on a busy two-core machine; a healthy platform needs a fraction of it.
PATIENCE_S: Final = 45.0


class Missing(Exception):  # noqa: N818 (a finding, not a fault of the demo)
    """A station was not seen."""

    def __init__(self, station: str, why: str) -> None:
        super().__init__(f"{station}: {why}")
        self.station = station
        self.why = why


class Story:
    """Prints the story and remembers which stations were seen, which were missing and which were left out."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._chapters = 0
        self.stations: dict[str, tuple[str, str]] = {}

    @property
    def complete(self) -> bool:
        """Whether no station was missing."""
        return bool(self.stations) and all(state != "MISSING" for state, _ in self.stations.values())

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._chapters += 1
        self._console.print(f"\n[bold]{self._chapters}. {escape(title)}[/bold]")

    def say(self, text: str) -> None:
        """Tell something."""
        self._console.print(f"   {escape(text)}", soft_wrap=True)

    def show(self, thing: object) -> None:
        """Print a table or a tree."""
        self._console.print(thing)

    def seen(self, station: str, evidence: str) -> None:
        """Tick a station off; one that was missing before stays so."""
        if self.stations.get(station, ("", ""))[0] != "MISSING":
            self.stations[station] = ("seen", evidence)
        self._console.print(f"   [green]✓[/green] {escape(station)}: {escape(evidence)}", soft_wrap=True)

    def skip(self, station: str, why: str) -> None:
        """Leave a station out, for want of a provider."""
        self.stations[station] = ("skipped", why)
        self._console.print(f"   - {escape(station)} left out: {escape(why)}", soft_wrap=True)

    def miss(self, missing: Missing) -> None:
        """Note what was not seen."""
        self.stations[missing.station] = ("MISSING", missing.why)
        self._console.print(f"   [red]✗[/red] {escape(missing.station)}: {escape(missing.why)}", soft_wrap=True)

    def summary(self) -> None:
        """Print every station with its verdict."""
        rows = [(name, state, told) for name, (state, told) in self.stations.items()]
        self._console.print("\n[bold]What was seen[/bold]")
        self._console.print(table(("station", "verdict", "evidence"), rows))


def wait_for(station: str, what: str, look: Callable[[], T | None], patience_s: float = PATIENCE_S) -> T:
    """Look until something other than None or False is there, and return it; raises `Missing` after `patience_s`."""
    deadline = time.monotonic() + patience_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise Missing(station, f"no {what} within {patience_s:.0f} s")
        time.sleep(POLL_S)
