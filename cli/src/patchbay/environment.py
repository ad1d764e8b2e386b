"""Where the platform is and who is asking: `.run/env` of `make up`, overridden by the process environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

RUN_DIR_VARIABLE: Final = "PATCHBAY_RUN_DIR"
TOKEN_VARIABLE: Final = "PATCHBAY_TOKEN"  # noqa: S105 (the name of a variable)


class CliError(Exception):
    """Something that the user can understand and mend; printed without a traceback."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of `.run/env`, and the folder that it was found in."""

    run_dir: Path
    values: Mapping[str, str] = field(repr=False)

    def __getitem__(self, name: str) -> str:
        """Return a variable; raises `CliError` that says how to get it."""
        value = self.values.get(name)
        if not value:
            raise CliError(f"{name} is not set, and {self.run_dir / 'env'} does not have it; run: make up")
        return value

    @property
    def traces(self) -> Path:
        """The folder into which the services write their spans."""
        return self.run_dir / "traces"


def load_environment() -> Environment:
    """Return the environment of the platform that this shell is meant for.

    The run folder is `PATCHBAY_RUN_DIR`, else the nearest `.run` in this folder or above. A missing file is no error
    until a variable is needed.
    """
    run_dir = _run_dir()
    file = run_dir / "env"
    values = _parse(file.read_text(encoding="utf-8")) if file.is_file() else {}
    overridden = {name: os.environ[name] for name in os.environ if name in values or _is_ours(name)}
    return Environment(run_dir, {**values, **overridden})


def _run_dir() -> Path:
    given = os.environ.get(RUN_DIR_VARIABLE)
    if given:
        return Path(given)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".run" / "env").is_file():
            return folder / ".run"
    return here / ".run"


def _is_ours(name: str) -> bool:
    return name in (TOKEN_VARIABLE, "KAFKA_BOOTSTRAP") or name.endswith("_URL")


def _parse(text: str) -> dict[str, str]:
    """Return the assignments of a shell-readable file."""
    pairs = (word.partition("=") for word in shlex.split(text, comments=True))
    return {name: value for name, _, value in pairs}
