"""A whole platform on loopback: `make up` runs one in .run, tests run others beside it.

It never signals a process that it did not start.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from chassis.testing.kafka import PrivateKafka, fetch_jars, jars_present
from chassis.testing.ports import free_port
from chassis.testing.postgres import PrivatePostgres
from chassis.testing.processes import PrivateServer, Process, ProcessError, log_tail, spawn, wait_until
from chassis.testing.redis import PrivateRedis
from tools.dev.http import readiness
from tools.dev.identity import OPERATOR_ROLES, Issuer, ensure_keyring, write_private
from tools.dev.progress import Progress
from tools.dev.state import RunState, env_lines
from tools.dev.table import (
    BY_NAME,
    INFRASTRUCTURE_PORTS,
    MIGRATE_COMMAND,
    SERVICES,
    TOPICS_COMMAND,
    Facts,
    ServiceSpec,
    environment,
)

ROOT: Final = Path(__file__).resolve().parents[2]
READY_DEADLINE_S: Final = 60.0
STOP_GRACE_S: Final = 30.0
# Seven services share the machine with this loop, and may log each request.
_READY_POLL_S: Final = 0.2
_ONE_SHOT_DEADLINE_S: Final = 120.0


class Stack:
    """Kafka, PostgreSQL, Redis and the named services (all by default) in one run folder. All methods block.

    `extra_env` adds to or replaces a service's environment, by service name. `default_ports` tries the documented ports
    first; without it any free ones are used, so that a test's stack runs beside the developer's.
    """

    def __init__(
        self,
        run_dir: Path,
        services: Sequence[str] | None = None,
        *,
        extra_env: Mapping[str, Mapping[str, str]] | None = None,
        default_ports: bool = False,
        under_load: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.run_dir = run_dir.resolve()
        self.specs = [spec for spec in SERVICES if services is None or spec.name in services]
        unknown = set(services or ()) - set(BY_NAME)
        if unknown:
            raise ValueError(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
        self._extra_env = extra_env or {}
        self._default_ports = default_ports
        self._under_load = under_load
        self._progress = progress or Progress(quiet=True)
        self._state = RunState(self.run_dir)
        self._issuer = Issuer(self.run_dir / "issuer")
        self._services: dict[str, Process] = {}
        self._databases = self.run_dir / "databases.json"
        self._ports: dict[str, int] = {}
        ports = self._state.remembered_ports()
        if {*INFRASTRUCTURE_PORTS, *(spec.name for spec in self.specs)} <= set(ports):
            self._use(ports)

    # -- what callers ask ------------------------------------------------------------------------------------------

    def up(self) -> bool:
        """Start everything and wait until it is ready; False when it already was.

        What is left of an earlier, half-dead run is stopped first. ProcessError names the culprit, with the end of its
        log; everything is stopped again then.
        """
        with self._state.locked():
            if self.running():
                self._write_env()
                return False
            if any(process.alive() for process in self._state.processes().values()):
                self._progress.tell("stopping what is left of an earlier run")
            self._stop_recorded()
            try:
                self._start_all()
            except BaseException:
                self._progress.tell("that failed; stopping what was started")
                self._stop_recorded()
                raise
        return True

    def down(self) -> list[str]:
        """Stop exactly what was started, services first; return the names of those that had to be killed."""
        with self._state.locked():
            return self._stop_recorded()

    def running(self) -> bool:
        """Say whether every process is alive and every service ready; takes over processes of an earlier `up`."""
        return (
            self.adopt()
            and all(process.alive() for process in self._services.values())
            and all(readiness(self.url(spec.name)).ready for spec in self.specs)
        )

    def adopt(self) -> bool:
        """Take over what an earlier `up` started; False unless the servers run. Services may be dead or not ready."""
        recorded, servers = self._state.processes(), self._servers_by_name()
        known = all(spec.name in recorded for spec in self.specs)
        if not servers or not known or not all(name in recorded and recorded[name].alive() for name in servers):
            return False
        for name, server in servers.items():
            server.adopt(recorded[name].ref)
        self._services = {spec.name: recorded[spec.name] for spec in self.specs}
        return True

    def url(self, name: str) -> str:
        """Return the base URL of a service."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def token(self, roles: Sequence[str] = OPERATOR_ROLES) -> str:
        """Return a new bearer token with these roles."""
        return self._issuer.token(roles)

    def log(self, name: str) -> Path:
        """Return the log file of a service."""
        return self.run_dir / "logs" / f"{name}.log"

    def processes(self) -> dict[str, Process]:
        """Return the processes that were started, in that order; some may be dead."""
        return self._state.processes()

    def kill(self, name: str) -> None:
        """SIGKILL a service, as a crash would."""
        self._services[name].kill()

    def stop(self, name: str) -> None:
        """Stop one service with SIGTERM, as a deployment would."""
        self._services[name].stop(STOP_GRACE_S)

    def start(self, name: str, extra_env: Mapping[str, str] | None = None) -> None:
        """Start one service that is not running and wait until it is ready; `extra_env` is for this start only."""
        if name not in self._services or not self._services[name].alive():
            self._launch(BY_NAME[name], extra_env or {})
        self._await_ready(BY_NAME[name])

    def restart(self, name: str) -> None:
        """Replace a service by a new process. Where two may overlap, the new one is ready before the old one stops.

        Both have the port meanwhile, so no request is refused. ProcessError, and the old one runs on, when the new one
        does not get ready.
        """
        spec, old = BY_NAME[name], self._services[name]
        if not spec.overlaps or not readiness(self.url(name)).ready:
            old.stop(STOP_GRACE_S)
            self.start(name)
            return
        self._launch(spec, {"PATCHBAY_LISTEN_WHEN_READY": "true"})
        try:
            self._await_ready(spec)
        except BaseException:
            self._services[name].kill()
            self._services[name] = old
            self._state.record(name, old)
            raise
        old.stop(STOP_GRACE_S)

    def join(self, name: str, instance: str, extra_env: Mapping[str, str]) -> Process:
        """Start a further replica of a service, on a port of its own, and return it once it is ready.

        `down` stops it, if the caller did not.
        """
        spec, port = BY_NAME[name], free_port()
        own = {"PATCHBAY_HTTP_PORT": str(port), "PATCHBAY_INSTANCE": instance}
        env = self._inherited() | environment(spec, self._facts())
        env |= {**self._extra_env.get(name, {}), **own, **extra_env}
        replica = f"{name}-{instance}"
        process = spawn([sys.executable, "-m", spec.module], log=self.log(replica), env=env, cwd=ROOT)
        self._state.record(replica, process)
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: readiness(url).ready, deadline_s=READY_DEADLINE_S, what=replica, process=process)
        return process

    def environment(self) -> dict[str, str]:
        """Return what `.run/env` holds: URLs, the broker's address and a new operator's token."""
        urls = {spec.url_variable: self.url(spec.name) for spec in self.specs}
        return urls | {"KAFKA_BOOTSTRAP": self.kafka.bootstrap, "PATCHBAY_TOKEN": self.token()}

    def database_url(self, name: str) -> str:
        """Return the DSN of a service's own database, for a test that compares what it holds; KeyError without one."""
        return str(self._database_urls()[name])

    # -- starting --------------------------------------------------------------------------------------------------

    def _use(self, ports: Mapping[str, int]) -> None:
        self._ports = dict(ports)
        self.kafka = PrivateKafka(
            self.run_dir / "kafka", ports["kafka"], ports["kafka-controller"], under_load=self._under_load
        )
        self.postgres = PrivatePostgres(self.run_dir / "postgres", ports["postgres"], durable=True)
        self.redis = PrivateRedis(self.run_dir / "redis", ports["redis"])
        for name, server in self._servers_by_name().items():
            server.on_spawn = partial(self._state.record, name)

    def _servers_by_name(self) -> dict[str, PrivateServer]:
        return {"kafka": self.kafka, "postgres": self.postgres, "redis": self.redis} if self._ports else {}

    def _start_all(self) -> None:
        (self.run_dir / "traces").mkdir(parents=True, exist_ok=True)
        self._issuer.ensure()
        ensure_keyring(self.run_dir / "keyring.json")
        preferred: dict[str, int | None] = {**INFRASTRUCTURE_PORTS, **{spec.name: spec.port for spec in self.specs}}
        wishes = preferred if self._default_ports else dict.fromkeys(preferred)
        self._use(self._state.ports(wishes, self._progress.tell))
        if not jars_present():
            with self._progress.step("fetching Kafka's jars through Maven (first run only, 44 MB)"):
                fetch_jars()
        self._in_parallel([self._start_kafka, self._start_postgres, self._start_redis])
        for spec in self.specs:
            self._launch(spec, {})
        self._in_parallel([partial(self._await_ready, spec) for spec in self.specs])
        self._write_env()

    @staticmethod
    def _in_parallel(jobs: Sequence[Callable[[], None]]) -> None:
        """Run jobs side by side, wait for all of them, raise the first failure in their order."""
        with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
            for future in [pool.submit(job) for job in jobs]:
                future.result()

    def _start_kafka(self) -> None:
        with self._progress.step("starting Kafka"):
            self.kafka.start()
        with self._progress.step("creating the topics of contracts/topics.py"):
            self._one_shot("topics", TOPICS_COMMAND, {"PATCHBAY_KAFKA_BOOTSTRAP": self.kafka.bootstrap})

    def _start_postgres(self) -> None:
        with self._progress.step("starting PostgreSQL"):
            self.postgres.start()
        owners = [spec for spec in self.specs if spec.database is not None]
        urls = {spec.name: self.postgres.create_database(str(spec.database), str(spec.database)) for spec in owners}
        write_private(self._databases, json.dumps(urls, indent=2) + "\n")
        # Beside the cluster that it speaks of: whoever deletes one deletes the other.
        stamp = self.run_dir / "postgres" / "migrations.sha256"
        digest = _migrations_digest()
        if stamp.is_file() and stamp.read_text() == digest:
            return
        with self._progress.step(f"migrating {len(owners)} databases"):
            self._in_parallel([partial(self._migrate, spec) for spec in owners])
        stamp.write_text(digest)

    def _start_redis(self) -> None:
        with self._progress.step("starting Redis"):
            self.redis.start()

    def _migrate(self, spec: ServiceSpec) -> None:
        self._one_shot(f"migrate-{spec.name}", (*MIGRATE_COMMAND, spec.module), environment(spec, self._facts()))

    def _one_shot(self, name: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        """Run a command to its end; ProcessError with the end of its log when it fails."""
        log = self.log(name)
        log.unlink(missing_ok=True)
        process = spawn([sys.executable, *arguments], log=log, env=self._inherited() | dict(env), cwd=ROOT)
        try:
            wait_until(lambda: not process.alive(), deadline_s=_ONE_SHOT_DEADLINE_S, what=name)
        finally:
            process.kill()
        if process.returncode != 0:
            command = f"python {' '.join(arguments)}"
            raise ProcessError(f"{command} failed ({process.returncode}); the end of {log}:\n{log_tail(log)}")

    def _launch(self, spec: ServiceSpec, extra_env: Mapping[str, str]) -> None:
        env = self._inherited() | environment(spec, self._facts())
        env |= {**self._extra_env.get(spec.name, {}), **extra_env}
        process = spawn([sys.executable, "-m", spec.module], log=self.log(spec.name), env=env, cwd=ROOT)
        self._services[spec.name] = process
        self._state.record(spec.name, process)

    def _await_ready(self, spec: ServiceSpec) -> None:
        process, url = self._services[spec.name], self.url(spec.name)
        with self._progress.step(f"waiting for {spec.name}"):
            try:
                wait_until(
                    # A process that shares its port with the one it replaces is not ready because that one is.
                    lambda: (answer := readiness(url)).ready and answer.pid in (0, process.pid),
                    deadline_s=READY_DEADLINE_S,
                    what=spec.name,
                    process=process,
                    poll_s=_READY_POLL_S,
                )
            except ProcessError as error:
                raise ProcessError(f"{error}\n{url}/ready answers: {readiness(url).reason}") from error

    def _facts(self) -> Facts:
        return Facts(
            kafka_bootstrap=self.kafka.bootstrap,
            redis_url=self.redis.url,
            jwks=self._issuer.jwks,
            keyring=self.run_dir / "keyring.json",
            traces=self.run_dir / "traces",
            claims=self.run_dir / "claims",
            urls={name: self.url(name) for name in BY_NAME if name in self._ports},
            ports=self._ports,
            databases=self._database_urls(),
            log_level=os.environ.get("PATCHBAY_LOG_LEVEL", "INFO"),
        )

    def _database_urls(self) -> dict[str, str]:
        return {name: str(url) for name, url in json.loads(self._databases.read_text()).items()}

    @staticmethod
    def _inherited() -> dict[str, str]:
        """Our own environment less any setting of a service: those come from the table and from nowhere else."""
        return {key: value for key, value in os.environ.items() if not key.startswith("PATCHBAY_")}

    def _write_env(self) -> None:
        write_private(self.run_dir / "env", env_lines(self.environment()))

    # -- stopping --------------------------------------------------------------------------------------------------

    def _stop_recorded(self) -> list[str]:
        """Stop every recorded process: the services side by side, then the servers they need."""
        recorded = {**self._state.processes(), **self._services}
        recorded |= {name: server.process for name, server in self._servers_by_name().items() if server.process}
        servers = {name: process for name, process in recorded.items() if name in {"kafka", "postgres", "redis"}}
        services = {name: process for name, process in recorded.items() if name not in servers}
        killed: list[str] = []

        def stop(name: str, process: Process) -> None:
            if not process.stop(STOP_GRACE_S):
                killed.append(name)

        for group in (services, servers):
            self._in_parallel([partial(stop, name, process) for name, process in group.items()])
        self._services = {}
        self._state.forget()
        return killed

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def _migrations_digest() -> str:
    """Return a digest of everything that a migration is made of; equal means that there is nothing to migrate."""
    digest = hashlib.sha256()
    for path in sorted(
        [*ROOT.glob("services/*/src/*/migrations/**/*.py"), *ROOT.glob("libs/chassis/src/chassis/db/*.py")]
    ):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
