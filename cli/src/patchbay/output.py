"""How the command line prints: tables and text with rich, plain and unwrapped where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough for an id beside everything else; a pipe has no width of its own.
PLAIN_WIDTH = 200


def console(*, stderr: bool = False) -> Console:
    """Return a console for standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table without a frame; cells are shown as text, never read as markup."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return made
