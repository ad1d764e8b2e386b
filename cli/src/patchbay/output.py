"""How the command line prints: tables and text with rich, plain and unwrapped where there is no terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough for an id beside everything else; a pipe has no width of its own.
PLAIN_WIDTH = 200
# C0 but for tab and line feed, DEL, and C1: terminals obey them.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False, wide: bool = False) -> Console:
    """Return a console for standard output or error; a `wide` one leaves it to a narrow terminal to break its lines."""
    stream = sys.stderr if stderr else sys.stdout
    made = Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)
    if wide:
        made.width = max(made.width, PLAIN_WIDTH)
    return made


def harmless(text: str) -> str:
    """Return a text with its control characters written out: what a stranger sent must not steer a terminal."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, whole: Collection[str] = ()) -> Table:
    """Return a table without a frame; cells are shown as text, never read as markup.

    Cells of the columns in `whole` stay on one line, whatever becomes of the others.
    """
    cells = [["" if cell is None else harmless(str(cell)) for cell in row] for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(header):
        kept = name in whole
        longest = max((cell_len(row[place]) for row in cells), default=0)
        made.add_column(name, overflow="fold", no_wrap=kept, min_width=longest if kept else None)
    for row in cells:
        made.add_row(*map(Text, row))
    return made
