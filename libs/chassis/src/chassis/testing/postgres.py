"""A private PostgreSQL cluster on loopback with one role and one database per service; never for production.

Passwords are checked for every connection (scram), and nobody but its own role may connect to a database.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.processes import PrivateServer, Process, ProcessError, log_tail, spawn, wait_until

SUPERUSER: Final = "postgres"
_INSTALL: Final = "run: sudo apt-get install -y postgresql"
_COMMAND_TIMEOUT_S: Final = 60
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SETTINGS: Final = {"max_connections": "200", "shared_buffers": "64MB", "unix_socket_directories": ""}
# Tests may lose their data in a power cut; a benchmark or a crash test may not.
_NOT_DURABLE: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def binary(name: str) -> str:
    """Return the path of a PostgreSQL server program, the newest version first; ProcessError when there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(versions)), os.environ.get("PATH", "")]))
    if found is None:
        raise ProcessError(f"PostgreSQL's {name} is not installed; {_INSTALL}")
    return found


class PostgresAdmin:
    """What tests and `make up` ask of a PostgreSQL server as its superuser; each call is one short `psql`."""

    def __init__(self, admin_dsn: str) -> None:
        self.admin_dsn = admin_dsn

    def execute(self, sql: str, database: str | None = None) -> str:
        """Run SQL as the superuser and return its output, unaligned; ProcessError when the server refuses."""
        url = urlsplit(self.admin_dsn)
        # Through the environment and standard input: arguments are public in the process list.
        env = dict(os.environ) | {"PGPASSWORD": url.password or "", "PGCONNECT_TIMEOUT": "5"}
        target = ("-h", url.hostname or LOOPBACK, "-p", str(url.port or 5432), "-U", url.username or SUPERUSER)
        done = subprocess.run(
            [binary("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *target, "-d", database or url.path[1:]],
            input=sql,
            env=env,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ProcessError(f"PostgreSQL refused: {done.stderr.strip()}")
        return done.stdout.strip()

    def create_database(self, role: str, database: str) -> str:
        """Create the role and its database if they are missing, give the role a new password, return its DSN.

        Idempotent but for the password. Only the role itself may connect.
        """
        if not (_NAME.fullmatch(role) and _NAME.fullmatch(database)):
            raise ValueError(f"not a plain lower-case name: {role!r} or {database!r}")
        password = secrets.token_hex(24)
        verb = "ALTER" if self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'") else "CREATE"  # noqa: S608
        self.execute(f"{verb} ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}'")
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{database}'"):  # noqa: S608
            self.execute(f"CREATE DATABASE {database} OWNER {role}")
        self.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        url = urlsplit(self.admin_dsn)
        return f"postgresql://{role}:{password}@{url.hostname}:{url.port or 5432}/{database}"

    def drop_database(self, role: str, database: str) -> None:
        """Drop a database with its connections, and its role; idempotent."""
        if not (_NAME.fullmatch(role) and _NAME.fullmatch(database)):
            raise ValueError(f"not a plain lower-case name: {role!r} or {database!r}")
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self.execute(f"DROP ROLE IF EXISTS {role}")


def _server_user() -> str | None:
    """Return whom to run the server as: PostgreSQL refuses root, any other user runs it as itself."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ProcessError("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")


class PrivatePostgres(PrivateServer):
    """One cluster in a folder of ours. `durable` keeps fsync on; without it a crash of the machine may lose data."""

    name = "PostgreSQL"
    stop_grace_s = 20.0
    # "Fast shutdown": PostgreSQL takes SIGTERM as "wait for all clients to leave".
    stop_signal = signal.SIGINT

    def __init__(self, data_dir: Path, port: int | None = None, *, durable: bool = False) -> None:
        super().__init__(data_dir, port or free_port())
        self._durable = durable
        self._cluster = data_dir / "cluster"
        self._secret = data_dir / "superuser-password"
        self._ready_stamp = data_dir / "initialised"
        self._user = _server_user()

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN."""
        password = self._secret.read_text()
        return f"postgresql://{SUPERUSER}:{password}@{self.address}/{SUPERUSER}"

    @property
    def admin(self) -> PostgresAdmin:
        """The superuser's operations."""
        return PostgresAdmin(self.admin_dsn)

    def create_database(self, role: str, database: str) -> str:
        """Create a role with its own database and return its DSN (see `PostgresAdmin.create_database`)."""
        return self.admin.create_database(role, database)

    def _as_server(self, argv: list[str]) -> tuple[list[str], str | None]:
        """Return the command and the user to start it as, so that the server reaches its folder.

        Under a folder that is closed to others, such as /root or pytest's temporary folder, the unprivileged user
        gets the capability to pass through it; that is all it is used for.
        """
        folders = (self._cluster, *self._cluster.resolve().parents)
        if self._user is None or all(folder.stat().st_mode & 0o001 for folder in folders[1:]):
            return argv, self._user
        group = str(pwd.getpwnam(self._user).pw_gid)
        identity = ("--reuid", self._user, "--regid", group, "--clear-groups")
        capability = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
        return ["setpriv", *identity, *capability, "--", *argv], None

    def _prepare(self) -> None:
        if self._ready_stamp.exists():
            return
        # The stamp comes last: without it the cluster is new, or its making was interrupted.
        shutil.rmtree(self._cluster, ignore_errors=True)
        self._cluster.mkdir(mode=0o700)
        password = secrets.token_hex(24)
        self._secret.touch(mode=0o600)
        self._secret.write_text(password)
        for_initdb = self.data_dir / "initdb-password"
        for_initdb.touch(mode=0o600)
        for_initdb.write_text(password)
        if self._user is not None:
            shutil.chown(self._cluster, self._user)
            shutil.chown(for_initdb, self._user)
        options = ("-U", SUPERUSER, "-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        argv, user = self._as_server(
            [binary("initdb"), "-D", str(self._cluster), *options, f"--pwfile={for_initdb}"],
        )
        initdb = spawn(argv, log=self.log, user=user)
        wait_until(lambda: not initdb.alive(), deadline_s=_COMMAND_TIMEOUT_S, what="initdb")
        for_initdb.unlink()
        if not (self._cluster / "global" / "pg_control").exists():
            raise ProcessError(f"initdb failed; the end of {self.log}:\n{log_tail(self.log)}")
        self._ready_stamp.touch()

    def _spawn(self) -> Process:
        settings = {"port": str(self.port), "listen_addresses": LOOPBACK} | _SETTINGS
        if not self._durable:
            settings |= _NOT_DURABLE
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        argv, user = self._as_server([binary("postgres"), "-D", str(self._cluster), *options])
        return spawn(argv, log=self.log, user=user, cwd=Path("/"), stop_signal=self.stop_signal)

    def _answers(self) -> bool:
        try:
            return self.admin.execute("SELECT 1") == "1"
        except ProcessError:
            return False
