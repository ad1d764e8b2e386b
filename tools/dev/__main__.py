"""`python -m tools.dev setup|up|down|restart|status|logs|env`: the commands behind make; never runs anything itself."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chassis.testing.kafka import fetch_jars, jars_present
from chassis.testing.processes import ProcessError
from tools.dev import packages
from tools.dev.http import readiness
from tools.dev.progress import Progress, table
from tools.dev.stack import ROOT, Stack
from tools.dev.table import BY_NAME, SERVICES

RUN_DIR: Final = ROOT / ".run"
_LOG_LINES: Final = "20"


def _stack(progress: Progress | None = None) -> Stack:
    return Stack(RUN_DIR, default_ports=True, progress=progress)


def _short(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _print_table(stack: Stack) -> bool:
    """Print one row per process and say whether all of them run and are ready."""
    rows, healthy = [], True
    for name, process in stack.processes().items():
        url = stack.url(name)
        state = "running" if process.alive() else "dead"
        if name in BY_NAME and process.alive():
            answer = readiness(url)
            state = "ready" if answer.ready else f"not ready: {answer.reason}"
        healthy = healthy and state in {"running", "ready"}
        shown = url if name in BY_NAME else url.removeprefix("http://")
        rows.append((name, shown, state, str(process.pid), _short(process.log)))
    print(table(("name", "url", "state", "pid", "log"), rows))
    return healthy


def setup(arguments: argparse.Namespace) -> int:
    """Install system packages and fetch Kafka's jars; a no-op when both are there."""
    progress = Progress()
    packages.ensure(progress.tell, with_checks=arguments.with_checks)
    if not jars_present():
        with progress.step("fetching Kafka's jars through Maven (first run only, 44 MB)"):
            fetch_jars()
    return 0


def up(_arguments: argparse.Namespace) -> int:
    """Start the local stack; harmless when it runs."""
    progress = Progress()
    packages.ensure(progress.tell)
    stack = _stack(progress)
    if not stack.up():
        print("already running (make down && make up loads changed code)")
    print()
    _print_table(stack)
    print("\nnext: make demo; `. .run/env` sets the URLs and a token; make logs, make down")
    return 0


def down(_arguments: argparse.Namespace) -> int:
    """Stop exactly what was started."""
    stack = _stack()
    running = [name for name, process in stack.processes().items() if process.alive()]
    killed = stack.down()
    print(f"stopped {', '.join(running)}" if running else "nothing was running")
    if killed:
        print(f"had to be killed after 30 s: {', '.join(killed)}")
    return 0


def restart(arguments: argparse.Namespace) -> int:
    """Restart one service with the code and settings of now; the gateway without refusing a request."""
    if arguments.name not in BY_NAME:
        print(f"no such service: {arguments.name}; there are {', '.join(BY_NAME)}")
        return 1
    stack = _stack(Progress())
    if not stack.adopt():
        print("nothing to restart; run: make up")
        return 1
    stack.restart(arguments.name)
    _print_table(stack)
    return 0


def status(_arguments: argparse.Namespace) -> int:
    """Print the processes; exit code 1 unless all are ready."""
    stack = _stack()
    if not stack.processes():
        print("nothing was started; run: make up")
        return 1
    return 0 if _print_table(stack) and len(stack.processes()) >= len(SERVICES) else 1


def logs(arguments: argparse.Namespace) -> int:
    """Follow the log of every process, or of the named ones, until interrupted."""
    known = {name: process.log for name, process in _stack().processes().items()}
    unknown = [name for name in arguments.names if name not in known]
    if unknown or not known:
        print(f"no log of {', '.join(unknown) or 'anything'}; there is: {', '.join(known) or 'nothing, run make up'}")
        return 1
    files = [str(known[name]) for name in arguments.names or known]
    return subprocess.run(["tail", "-n", _LOG_LINES, "-F", *files], check=False).returncode


def env(_arguments: argparse.Namespace) -> int:
    """Print `.run/env`."""
    file = RUN_DIR / "env"
    if not file.exists():
        print("there is no .run/env; run: make up", file=sys.stderr)
        return 1
    print(file.read_text(), end="")
    return 0


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "setup": setup,
    "up": up,
    "down": down,
    "restart": restart,
    "status": status,
    "logs": logs,
    "env": env,
}


def main() -> int:
    """Run one command; a failure with a known cause prints its message, not a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tools.dev", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in COMMANDS.items():
        command = commands.add_parser(name, help=(function.__doc__ or "").strip())
        if name == "setup":
            command.add_argument(
                "--with-checks",
                action="store_true",
                help="also what make lint and the tests need (promtool, libfaketime)",
            )
        if name == "restart":
            command.add_argument("name", help="a service, as make status names it")
        if name == "logs":
            command.add_argument("names", nargs="*", help="processes, as make status names them")
    arguments = parser.parse_args()
    try:
        return COMMANDS[arguments.command](arguments)
    except ProcessError as error:
        print(f"\nmake {arguments.command}: {error}", file=sys.stderr)
    except PermissionError as error:
        owner = "another user (did root run make up here before?)"
        print(f"\nmake {arguments.command}: {error.filename} belongs to {owner}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\nmake {arguments.command}: interrupted", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
