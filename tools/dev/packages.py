"""System packages the local stack needs: install them when allowed, else say the one line to run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chassis.testing.postgres import binary
from chassis.testing.processes import ProcessError

# Debian would start a system-wide PostgreSQL and Redis as soon as they are installed; 101 forbids that for this run.
_INSTALL_SCRIPT: Final = """
set -eu
guard=/usr/sbin/policy-rc.d
if [ ! -e "$guard" ]; then
    trap 'rm -f "$guard"' EXIT INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >"$guard"
    chmod 755 "$guard"
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
"""


def _has_postgres() -> bool:
    try:
        return all(binary(name) for name in ("initdb", "postgres", "psql"))
    except ProcessError:
        return False


# Debian package -> is it there?
_RUN_PACKAGES: Final[dict[str, Callable[[], bool]]] = {
    "default-jre-headless": lambda: shutil.which("java") is not None,
    "maven": lambda: shutil.which("mvn") is not None,
    "postgresql": _has_postgres,
    "redis-server": lambda: shutil.which("redis-server") is not None,
}
_CHECK_PACKAGES: Final[dict[str, Callable[[], bool]]] = {
    "prometheus": lambda: shutil.which("promtool") is not None,
    "faketime": lambda: faketime_library() is not None,
}


def faketime_library() -> Path | None:
    """Return the library that gives a process another clock when it is preloaded, if it is there."""
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


def missing(*, with_checks: bool = False) -> list[str]:
    """Return the Debian packages that are needed and not there; `with_checks` adds those of lint and tests."""
    wanted = _RUN_PACKAGES | (_CHECK_PACKAGES if with_checks else {})
    return [package for package, present in wanted.items() if not present()]


def _privilege() -> list[str] | None:
    """Return what to put before a command so that it may install packages; None when we may not."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def ensure(tell: Callable[[str], None], *, with_checks: bool = False) -> None:
    """Install what is missing, or raise ProcessError with the line to run. Blocks for as long as apt-get does."""
    packages = missing(with_checks=with_checks)
    if not packages:
        return
    line = f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}"
    prefix = _privilege()
    if prefix is None:
        raise ProcessError(f"system packages are missing; run this line, then make up again:\n    {line}")
    tell(f"installing system packages with apt-get: {' '.join(packages)}")
    done = subprocess.run(
        [*prefix, "sh", "-c", _INSTALL_SCRIPT, "install", *packages],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0 or missing(with_checks=with_checks):
        raise ProcessError(f"apt-get could not install them:\n{done.stdout[-2000:]}\nrun by hand:\n    {line}")
