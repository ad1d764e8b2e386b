"""A real Apache Kafka broker (KRaft, one node) from Maven jars, without a container engine; never for production.

The jars are fetched once into a cache folder outside the repository. The recipe and its figures: tools/kafka/.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Final

from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.processes import PrivateServer, Process, ProcessError, log_tail, spawn

# Quick start and a small heap; the compiler stays at its first tier, which halves the peak rate of a broker under load.
_SMALL_JVM: Final = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_HEAP: Final = ("-Xms256m", "-Xmx512m")
_FETCH_TIMEOUT_S: Final = 600
_FORMAT_TIMEOUT_S: Final = 60
_INSTALL: Final = "run: sudo apt-get install -y default-jre-headless maven"
_METADATA_KEY: Final = 3
_METADATA_VERSION: Final = 1


def recipe_dir() -> Path:
    """Return the checkout's tools/kafka folder (pom and properties template)."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "tools" / "kafka" / "pom.xml").is_file():
            return parent / "tools" / "kafka"
    raise ProcessError("tools/kafka/pom.xml not found: the private Kafka needs a checkout of Patchbay")


def cache_dir() -> Path:
    """Return the folder of the pom's Kafka version in the cache: PATCHBAY_CACHE, else ~/.cache/patchbay."""
    found = re.search(r"<kafka\.version>([^<]+)<", (recipe_dir() / "pom.xml").read_text())
    if found is None:
        raise ProcessError("tools/kafka/pom.xml names no kafka.version")
    root = os.environ.get("PATCHBAY_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "patchbay") / f"kafka-{found[1]}"


def jars_present() -> bool:
    """Say whether the cache holds the jars of exactly the current pom."""
    stamp = cache_dir() / "pom.xml"
    return stamp.is_file() and stamp.read_bytes() == (recipe_dir() / "pom.xml").read_bytes()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock: several pytest workers may need the jars at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_jars() -> Path:
    """Return the folder with the broker's jars, fetching them through Maven the first time (44 MB); idempotent."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        if jars_present():
            return cache / "lib"
        maven = shutil.which("mvn")
        if maven is None:
            raise ProcessError(f"mvn is not installed, and Kafka's jars come through Maven; {_INSTALL}")
        shutil.rmtree(cache / "lib", ignore_errors=True)
        log = cache / "fetch.log"
        pom = recipe_dir() / "pom.xml"
        goal = ("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={cache / 'lib'}")
        with log.open("wb") as output:
            done = subprocess.run(
                [maven, "-q", "-B", "-f", str(pom), *goal],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_FETCH_TIMEOUT_S,
                check=False,
            )
        if done.returncode != 0:
            raise ProcessError(f"Maven could not fetch Kafka's jars; the end of {log}:\n{log_tail(log)}")
        shutil.copyfile(pom, cache / "pom.xml")  # the stamp comes last: an interrupted fetch is done again
    return cache / "lib"


class PrivateKafka(PrivateServer):
    """One broker on loopback whose port and data survive `restart()`; `kill()` is a crash.

    `under_load` leaves out the two JVM flags that make a small broker start fast and a busy one slow.
    """

    name = "Kafka"
    start_deadline_s = 60.0
    stop_grace_s = 20.0

    def __init__(
        self, data_dir: Path, port: int | None = None, controller_port: int | None = None, *, under_load: bool = False
    ) -> None:
        super().__init__(data_dir, port or free_port())
        self.controller_port = controller_port or free_port(avoid=(self.port,))
        self._jvm = _HEAP if under_load else (*_SMALL_JVM, *_HEAP)
        self._properties = data_dir / "server.properties"
        self._logs = data_dir / "logs"

    @property
    def bootstrap(self) -> str:
        """The bootstrap address for clients."""
        return self.address

    def _java(self, *arguments: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise ProcessError(f"java is not installed, and Kafka runs on it (17 or newer); {_INSTALL}")
        return [java, *arguments[:-2], "-cp", f"{fetch_jars()}/*", *arguments[-2:]]

    def _prepare(self) -> None:
        template = Template((recipe_dir() / "server.properties").read_text())
        self._properties.write_text(
            template.substitute(port=self.port, controller_port=self.controller_port, log_dirs=self._logs)
        )
        if (self._logs / "meta.properties").exists():
            return
        # Without this file the folder is new, or its formatting was interrupted and has to begin again.
        shutil.rmtree(self._logs, ignore_errors=True)
        java = self._java("-Xmx256m", "kafka.tools.StorageTool", "format")
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # "--cluster-id=" because an id may begin with a dash.
        done = subprocess.run(
            [*java, "--standalone", f"--cluster-id={cluster_id}", "-c", str(self._properties)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ProcessError(f"Kafka could not format {self._logs}:\n{done.stdout}{done.stderr}")

    def _spawn(self) -> Process:
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return spawn(self._java(*self._jvm, quiet, "kafka.Kafka", str(self._properties)), log=self.log)

    def _answers(self) -> bool:
        """Ask for the metadata of no topic: the broker is there once it lists itself."""
        body = struct.pack(">hhih", _METADATA_KEY, _METADATA_VERSION, 1, -1) + struct.pack(">i", 0)
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.settimeout(2)
                connection.sendall(struct.pack(">i", len(body)) + body)
                answer = connection.makefile("rb").read(12)
        except OSError:
            return False
        return len(answer) == 12 and struct.unpack(">iii", answer)[2] >= 1
