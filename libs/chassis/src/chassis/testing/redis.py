"""A private Redis on loopback behind a password; never persistent, because Redis is only a cache and a limiter here."""

from __future__ import annotations

import secrets
import shutil
import socket
from pathlib import Path

from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.processes import PrivateServer, Process, ProcessError, spawn


class PrivateRedis(PrivateServer):
    """`redis-server` of the system, with nothing written to disk."""

    name = "Redis"
    start_deadline_s = 15.0
    stop_grace_s = 5.0

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        super().__init__(data_dir, port or free_port())
        self._password_file = data_dir / "password"

    @property
    def url(self) -> str:
        """redis:// URL with the password."""
        return f"redis://:{self._password_file.read_text()}@{self.address}/0"

    def _prepare(self) -> None:
        if not self._password_file.exists():
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(secrets.token_hex(24))
        # A file, because a password among the arguments shows in the process list.
        config = self.data_dir / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self._password_file.read_text()}\n"
            f'save ""\nappendonly no\ndir "{self.data_dir}"\nmaxmemory 128mb\nmaxmemory-policy allkeys-lru\n'
        )

    def _spawn(self) -> Process:
        program = shutil.which("redis-server")
        if program is None:
            raise ProcessError("redis-server is not installed; run: sudo apt-get install -y redis-server")
        return spawn([program, str(self.data_dir / "redis.conf")], log=self.log)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
                connection.settimeout(1)
                connection.sendall(f"AUTH {self._password_file.read_text()}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (chunk := connection.recv(256)):
                    answer += chunk
                return answer == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False
