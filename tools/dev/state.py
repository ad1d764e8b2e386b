"""What a stack remembers in its run folder: ports, pids, the lock, the env file; never anything outside of it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shlex
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from chassis.testing.ports import free_port, is_free
from chassis.testing.processes import Process, ProcessError, ProcessRef
from tools.dev.identity import write_private


def env_lines(values: Mapping[str, str]) -> str:
    """Return KEY=value lines that a POSIX shell reads back unchanged (`. .run/env`)."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in values.items())


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty when the file is missing or was cut off by a crash."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


class RunState:
    """The files of one run folder. Thread-safe where processes are started in parallel."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._pids = run_dir / "pids.json"
        self._ports = run_dir / "ports.json"
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one `up` or `down` at a time work in the folder; ProcessError when another one is at it."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ProcessError(
                    f"another make up or make down is at work in {self.run_dir}; try again when it has ended"
                ) from error
            yield

    def record(self, name: str, process: Process) -> None:
        """Write down a started process, replacing an earlier one of that name."""
        with self._mutex:
            content = _read_json(self._pids)
            content.pop(name, None)
            content[name] = {
                "pid": process.pid,
                "started": process.ref.started,
                "stop_signal": int(process.stop_signal),
                "log": str(process.log),
            }
            write_private(self._pids, json.dumps(content, indent=2) + "\n")

    def processes(self) -> dict[str, Process]:
        """Return the processes written down, in the order they were started; some may be dead."""
        found = {}
        for name, entry in _read_json(self._pids).items():
            with contextlib.suppress(KeyError, TypeError, ValueError):
                ref = ProcessRef(int(entry["pid"]), str(entry["started"]))
                found[name] = Process(ref, Path(entry["log"]), signal.Signals(entry["stop_signal"]))
        return found

    def forget(self) -> None:
        """Drop the list of processes; the ports stay remembered."""
        self._pids.unlink(missing_ok=True)

    def ports(self, preferred: Mapping[str, int | None], tell: Callable[[str], None]) -> dict[str, int]:
        """Choose a free port for every name and remember it: last time's, else the preferred one, else any free one.

        A port that somebody else took is named through `tell`.
        """
        remembered = {name: port for name, port in _read_json(self._ports).items() if isinstance(port, int)}
        chosen: dict[str, int] = {}
        for name, wish in preferred.items():
            chosen[name] = self._port(name, remembered.get(name, wish), {*chosen.values(), *remembered.values()}, tell)
        self._ports.write_text(json.dumps(chosen, indent=2) + "\n")
        return chosen

    @staticmethod
    def _port(name: str, wish: int | None, others: Collection[int], tell: Callable[[str], None]) -> int:
        if wish is not None and is_free(wish):
            return wish
        port = free_port(avoid=others)
        if wish is not None:
            tell(f"port {wish} for {name} is taken by another program; using {port}")
        return port

    def remembered_ports(self) -> dict[str, int]:
        """Return the ports of the last `up`; empty when there was none."""
        return {name: port for name, port in _read_json(self._ports).items() if isinstance(port, int)}
