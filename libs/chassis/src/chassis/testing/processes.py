"""Start child processes in their own session and stop exactly those; never signals a process it did not start.

Linux only: a process is known by its pid, its start time and the boot it belongs to (/proc), so that a pid which the
system gave to somebody else in the meantime is left alone.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

POLL_S: Final = 0.05
DEFAULT_GRACE_S: Final = 30.0
LOG_TAIL_LINES: Final = 20
_LOG_TAIL_BYTES: Final = 16_384


class ProcessError(RuntimeError):
    """A process could not be started or did not get ready; the message says what to do next."""


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log file, indented; an empty string when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def _pause(seconds: float = POLL_S) -> None:
    time.sleep(seconds)  # lint-skip: PB003 waits for other processes, which no fake clock can drive


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third (state) on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process that was started here: enough to find it again from another process, and to know when it is gone."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """Describe a live process (or zombie) by its pid; ProcessError when there is none."""
        fields = _stat(pid)
        if not fields:
            raise ProcessError(f"process {pid} is gone")
        return cls(pid, f"{_boot_id()}:{fields[19]}")

    def alive(self) -> bool:
        """Say whether this very process still runs; a zombie and a stranger with the same pid do not count."""
        fields = _stat(self.pid)
        if not fields or not self._is(fields):
            return False
        # A killed process is a zombie while its other threads (field 17 counts them) still hold its sockets.
        return fields[0] not in "ZX" or int(fields[17]) > 1

    def _is(self, fields: list[str]) -> bool:
        return self.started == f"{_boot_id()}:{fields[19]}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process if it is still ours; a no-op otherwise."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_tree(self) -> None:
        """SIGKILL the process with its children and the rest of its session, and wait until they are gone.

        A leader that died earlier does not matter: Linux keeps its pid reserved while its session has members.
        """
        boot, _, started = self.started.partition(":")
        leader = _stat(self.pid)
        if boot != _boot_id() or (leader and not self._is(leader)):
            return
        ours = [self]
        for entry in Path("/proc").iterdir():
            fields = _stat(int(entry.name)) if entry.name.isdigit() else []
            # Fields 1 and 3: parent and session. PostgreSQL's children each open a session of their own.
            if fields and str(self.pid) in (fields[1], fields[3]) and int(fields[19]) >= int(started):
                ours.append(ProcessRef(int(entry.name), f"{boot}:{fields[19]}"))
        for ref in ours:
            ref.signal(signal.SIGKILL)
        while any(ref.alive() for ref in ours):
            _pause()


# Our own children have to be reaped, whichever object asks about them; others are known by /proc alone.
_children: Final[dict[ProcessRef, subprocess.Popen[bytes]]] = {}


class Process:
    """A started process: its reference, its log, and how to end it."""

    def __init__(self, ref: ProcessRef, log: Path, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.ref = ref
        self.log = log
        self.stop_signal = stop_signal

    @property
    def pid(self) -> int:
        """The process id."""
        return self.ref.pid

    @property
    def returncode(self) -> int | None:
        """The exit code of our own child once it has ended; None before that, and for somebody else's child."""
        child = _children.get(self.ref)
        return None if child is None else child.poll()

    def alive(self) -> bool:
        """Say whether it still runs; reaps it when it is our own child and has ended."""
        return self.returncode is None and self.ref.alive()

    def send_stop(self) -> None:
        """Ask it to stop (SIGTERM, or the signal its kind wants); returns at once."""
        self.ref.signal(self.stop_signal)

    def stop(self, grace_s: float = DEFAULT_GRACE_S) -> bool:
        """Ask it to stop, wait up to `grace_s` seconds, then SIGKILL what is left; False when it had to be killed."""
        self.send_stop()
        deadline = time.monotonic() + grace_s
        while self.alive() and time.monotonic() < deadline:
            _pause()
        in_time = not self.alive()
        self.kill()
        return in_time

    def kill(self) -> None:
        """SIGKILL it with all its children and wait until they are gone; idempotent."""
        self.ref.kill_tree()
        while self.alive():
            _pause()


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    user: str | None = None,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Process:
    """Start a process in a session of its own, output appended to `log`, no input; returns at once.

    `user` (root only) drops to that user and its main group. ProcessError when the program does not exist.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    group = None if user is None else pwd.getpwnam(user).pw_gid
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                cwd=cwd,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
            )
        except FileNotFoundError as error:
            raise ProcessError(f"cannot start {argv[0]}: {error}") from error
    ref = ProcessRef.of(child.pid)
    _children[ref] = child
    return Process(ref, log, stop_signal)


def wait_until(
    ready: Callable[[], bool], *, deadline_s: float, what: str, process: Process | None = None, poll_s: float = POLL_S
) -> None:
    """Poll every `poll_s` seconds until `ready()`.

    ProcessError with the end of the log after `deadline_s` seconds, or as soon as `process` has died.
    """
    end = time.monotonic() + deadline_s
    while not ready():
        died = process is not None and not process.alive()
        if died or time.monotonic() > end:
            reason = "ended before it was ready" if died else f"was not ready after {deadline_s:.0f} s"
            tail = f"; the end of {process.log}:\n{log_tail(process.log)}" if process is not None else ""
            raise ProcessError(f"{what} {reason}{tail}")
        _pause(poll_s)


class PrivateServer:
    """A server process of our own with a data folder and a loopback port; subclasses say how to start it.

    Every method blocks. The data folder stays after `stop()`, so that `start()` finds it again.
    """

    name = "server"
    start_deadline_s = 30.0
    stop_grace_s = 30.0
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path, port: int) -> None:
        self.data_dir = data_dir
        self.port = port
        self.log = data_dir / "server.log"
        self.process: Process | None = None
        # Told about every new process, so that a supervisor can write its pid down before anything else happens.
        self.on_spawn: Callable[[Process], None] = lambda _process: None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def alive(self) -> bool:
        """Say whether the process runs."""
        return self.process is not None and self.process.alive()

    def adopt(self, ref: ProcessRef) -> None:
        """Take over a process that another Python process started on the same data folder and port."""
        self.process = Process(ref, self.log, self.stop_signal)

    def start(self) -> Self:
        """Prepare the data folder if it is new, start the process, wait until it answers; a no-op when it runs."""
        if not self.alive():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._prepare()
            self.process = self._spawn()
            self.on_spawn(self.process)
            try:
                wait_until(self._answers, deadline_s=self.start_deadline_s, what=self.name, process=self.process)
            except ProcessError:
                self.process.kill()
                raise
        return self

    def stop(self) -> None:
        """Stop it in its own orderly way; SIGKILL after the grace period. Idempotent."""
        if self.process is not None:
            self.process.stop(self.stop_grace_s)

    def kill(self) -> None:
        """SIGKILL it, as a crash would."""
        if self.process is not None:
            self.process.kill()

    def restart(self) -> None:
        """Stop it if it runs and start it again on the same port and data."""
        self.stop()
        self.start()

    def _prepare(self) -> None:
        raise NotImplementedError

    def _spawn(self) -> Process:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
