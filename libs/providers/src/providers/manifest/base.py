"""The vocabulary of manifests: names, pointers and places that values are read from.

Must never hold a default that a vendor does not document.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

# The folder is imported as `providers.<slug>`, so a slug is a Python identifier too.
FolderName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{1,39}$")]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$")]
# `#` stands for 1, 2, 3 and so on: one header per key of the sender.
NumberedHeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+#?$")]
Pointer = Annotated[str, StringConstraints(pattern=r"^(/[^/]*)*$")]
_PLACE = r"(body:(/[^/|]*)+|root:(/[^/|]*)+|key:[1-9]|header:[A-Za-z0-9{}_-]+|form:[^|]+|query:[^|]+|option:[a-z_0-9]+)"
# Where a value of a request is read from; `{name}` inside stands for the option of that name.
Place = Annotated[str, StringConstraints(pattern=rf"^{_PLACE}$")]
# Several places, the first that has a value counts: `body:/signature/token|form:token`.
Places = Annotated[str, StringConstraints(pattern=rf"^{_PLACE}(\|{_PLACE})*$")]
Source = Annotated[str, StringConstraints(pattern=rf"^({_PLACE}|const:[\w.{{}}-]+|digest)$")]
# Several sources are one composite value, and only complete ones count.
Choice = Source | tuple[Source, ...]


class Strict(BaseModel):
    """Base of every table: an unknown key is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def flat(choices: tuple[Choice, ...]) -> list[str]:
    """Return all sources of a list of choices."""
    return [source for choice in choices for source in ([choice] if isinstance(choice, str) else choice)]


def options_in(*texts: str) -> set[str]:
    """Return the options that places, sources or templates name: `{name}` inside of one, or `option:name`."""
    found: set[str] = set()
    for text in texts:
        found |= set(re.findall(r"\boption:(\w+)", text))
        found |= set(re.findall(r"\{(\w+)\}", text))
    return found
