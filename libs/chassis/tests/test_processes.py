"""Processes are stopped by what they are, not by their pid alone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chassis.testing.ports import LOOPBACK, accepts, free_port, is_free
from chassis.testing.processes import Process, ProcessError, ProcessRef, log_tail, spawn, wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(120)",
]


def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        boot, _, started = ProcessRef.of(stranger.pid).started.partition(":")
        for ours in (f"{boot}:{int(started) - 1}", f"another-boot:{started}"):
            recorded = Process(ProcessRef(stranger.pid, ours), tmp_path / "log")
            assert not recorded.alive()
            assert recorded.stop(grace_s=0.1)
            recorded.kill()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_process_is_found_again_and_stopped_from_its_record(tmp_path: Path) -> None:
    process = spawn(SLEEP, log=tmp_path / "log")
    adopted = Process(ProcessRef(process.pid, process.ref.started), tmp_path / "log")
    assert adopted.alive()
    assert adopted.stop(grace_s=10)
    assert not process.alive()
    assert process.returncode == -signal.SIGTERM


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    process = spawn(DEAF, log=tmp_path / "log")
    wait_until(lambda: "deaf" in log_tail(tmp_path / "log"), deadline_s=20, what="deaf")
    assert not process.stop(grace_s=0.2)
    assert process.returncode == -signal.SIGKILL


def test_the_children_of_a_dead_leader_are_killed_too(tmp_path: Path) -> None:
    program = f"import subprocess, sys; print(subprocess.Popen({SLEEP!r}).pid, flush=True); sys.exit()"
    leader = spawn([sys.executable, "-W", "ignore", "-c", program], log=tmp_path / "log")
    wait_until(lambda: not leader.alive(), deadline_s=20, what="leader")
    child = ProcessRef.of(int((tmp_path / "log").read_text()))
    assert child.alive()
    leader.stop()
    assert not child.alive()


def test_waiting_ends_early_with_the_log_when_the_process_dies(tmp_path: Path) -> None:
    process = spawn([sys.executable, "-c", "raise SystemExit('no such setting')"], log=tmp_path / "log")
    begin = time.monotonic()
    with pytest.raises(ProcessError, match=r"(?s)svc ended before it was ready.*no such setting"):
        wait_until(lambda: False, deadline_s=60, what="svc", process=process)
    assert time.monotonic() - begin < 30


def test_waiting_has_a_deadline(tmp_path: Path) -> None:
    process = spawn(SLEEP, log=tmp_path / "log")
    with pytest.raises(ProcessError, match="svc was not ready after 0 s"):
        wait_until(lambda: False, deadline_s=0.2, what="svc", process=process)
    process.kill()


def test_a_missing_program_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="cannot start /nowhere/program"):
        spawn(["/nowhere/program"], log=tmp_path / "log")


def test_the_log_tail_is_the_last_twenty_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(5000)))
    assert log_tail(log).splitlines() == [f"    line {n}" for n in range(4980, 5000)]
    assert log_tail(tmp_path / "none") == ""


def test_a_listening_port_is_not_free() -> None:
    port = free_port()
    assert is_free(port)
    assert not accepts(port)
    with socket.create_server((LOOPBACK, port)):
        assert not is_free(port)
        assert accepts(port)
    assert free_port(avoid=range(20_000, 32_000)) > 31_999
