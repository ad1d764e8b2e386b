"""Hold docker-compose.yml against the local stack and the repository, without a container engine; never changes a file.

Each finding is one line, `CMPnnn place: what is wrong`. The rules cover the part of the compose specification that the
file uses; a key outside of it is a finding, so that a misspelt one cannot pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.compose_env import ROOT, file_names, secret_names
from tools.dev.table import (
    INFRASTRUCTURE_PORTS,
    MIGRATE_COMMAND,
    SERVICES,
    TOPICS_COMMAND,
    Facts,
    ServiceSpec,
    environment,
)

TOP_KEYS: Final = {"name", "services", "volumes"}
SERVICE_KEYS: Final = {
    "build", "command", "depends_on", "env_file", "environment", "healthcheck", "image", "ports", "restart",
    "stop_grace_period", "user", "volumes",
}  # fmt: skip
BUILD_KEYS: Final = {"context", "dockerfile", "args"}
HEALTH_KEYS: Final = {"test", "interval", "timeout", "retries", "start_period"}
CONDITIONS: Final = {"service_started", "service_healthy", "service_completed_successfully"}
# Spans go to a file locally and to the collector here.
LOCAL_ONLY: Final = {"PATCHBAY_TRACE_FILE"}
COMPOSE_ONLY: Final = {"OTEL_EXPORTER_OTLP_ENDPOINT"}
# The image has no shell and no HTTP client; nothing waits for it.
NO_HEALTHCHECK: Final = {"otel-collector"}
CONTAINER_PORT: Final = "8000"
# Addresses differ between loopback and a container network; everything else must not.
KAFKA_ADDRESSES: Final = {
    "controller.quorum.bootstrap.servers",
    "listeners",
    "advertised.listeners",
    "listener.security.protocol.map",
    "log.dirs",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    code: str
    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.place}: {self.text}"


def _is_one_shot(name: str) -> bool:
    return name == "topics" or name.startswith("migrate-")


def _shape(compose: Mapping[str, Any]) -> Iterator[Finding]:
    for key in compose:
        if key not in TOP_KEYS and not key.startswith("x-"):
            yield Finding("CMP001", key, "unknown top-level key")
    for name, service in compose["services"].items():
        for key in service.keys() - SERVICE_KEYS:
            yield Finding("CMP001", name, f"unknown key {key}")
        for key in service.get("healthcheck", {}).keys() - HEALTH_KEYS:
            yield Finding("CMP001", name, f"unknown key healthcheck.{key}")
        for key in service.get("build", {}).keys() - BUILD_KEYS:
            yield Finding("CMP001", name, f"unknown key build.{key}")
        image = service.get("image", "")
        if not image:
            yield Finding("CMP002", name, "no image")
        elif "build" not in service and not re.fullmatch(r"[a-z0-9./-]+:v?\d[\w.-]*", image):
            yield Finding("CMP002", name, f"image {image} has no version")
        if not _is_one_shot(name) and name not in NO_HEALTHCHECK and not service.get("healthcheck", {}).get("test"):
            yield Finding("CMP003", name, "no health check")


def _dependencies(compose: Mapping[str, Any]) -> Iterator[Finding]:
    services = compose["services"]
    for name, service in services.items():
        for other, wish in service.get("depends_on", {}).items():
            condition = wish.get("condition", "service_started")
            if other not in services:
                yield Finding("CMP004", name, f"depends on {other}, which there is not")
            elif condition not in CONDITIONS:
                yield Finding("CMP004", name, f"unknown condition {condition}")
            elif condition == "service_healthy" and "healthcheck" not in services[other]:
                yield Finding("CMP004", name, f"waits for {other} to be healthy, which has no health check")
            elif (condition == "service_completed_successfully") != _is_one_shot(other):
                yield Finding("CMP004", name, f"{condition} does not fit {other}")


def _file(root: Path, name: str, path: str) -> Iterator[Finding]:
    """Check that a referenced path is in the repository, or is made by tools/compose_env.py."""
    relative = path.removeprefix("./")
    if relative.startswith(".run/compose/"):
        if relative.removeprefix(".run/compose/") not in file_names():
            yield Finding("CMP005", name, f"{path} is not made by tools/compose_env.py")
    elif not (root / relative).exists():
        yield Finding("CMP005", name, f"{path} does not exist")


def _files(compose: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    for name, service in compose["services"].items():
        for path in service.get("env_file", []):
            yield from _file(root, name, path)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                yield from _file(root, name, source)
            elif source not in compose.get("volumes", {}):
                yield Finding("CMP005", name, f"volume {source} is not declared")
        build = service.get("build")
        if build:
            yield from _file(root, name, build["dockerfile"])
            folder = build.get("args", {}).get("SERVICE", "")
            if not (root / folder / "pyproject.toml").is_file():
                yield Finding("CMP005", name, f"build argument SERVICE={folder} is no package of the workspace")


def _ports(compose: Mapping[str, Any]) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    expected = {spec.name: f"127.0.0.1:{spec.port}:{CONTAINER_PORT}" for spec in SERVICES}
    expected["kafka"] = "127.0.0.1:{0}:{0}".format(INFRASTRUCTURE_PORTS["kafka"])
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            host, _, published = str(port).rpartition(":")[0].partition(":")
            if host != "127.0.0.1":
                yield Finding("CMP006", name, f"port {port} is open to more than this machine")
            if published in seen:
                yield Finding("CMP006", name, f"port {published} is also {seen[published]}'s")
            seen[published] = name
        if name in expected and expected[name] not in service.get("ports", []):
            yield Finding("CMP006", name, f"does not publish {expected[name]}, the port of make up")


def _variables(service: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in (service.get("environment") or {}).items()}


def _no_facts() -> Facts:
    """Facts whose values do not matter: only names and fixed values of the environment are compared."""
    names = [spec.name for spec in SERVICES]
    nowhere = Path("/keys")
    zero, empty = dict.fromkeys(names, 0), dict.fromkeys(names, "")
    return Facts("", "", nowhere, nowhere, nowhere, nowhere, empty, zero, empty)


def _service(spec: ServiceSpec, service: Mapping[str, Any]) -> Iterator[Finding]:
    local = environment(spec, _no_facts())
    secret = secret_names(database=spec.database is not None)
    given = _variables(service)
    for variable in sorted(local.keys() - LOCAL_ONLY - secret - given.keys()):
        yield Finding("CMP007", spec.name, f"{variable} is set by make up and missing here")
    for variable in sorted(given.keys() - local.keys() - COMPOSE_ONLY):
        yield Finding("CMP007", spec.name, f"{variable} is not set by make up")
    for variable in sorted(given.keys() & secret):
        yield Finding("CMP007", spec.name, f"{variable} holds a password: it belongs in the env file")
    fixed = {"PATCHBAY_JWT_ISSUER", "PATCHBAY_JWT_AUDIENCE", "PATCHBAY_ROLE"}
    for variable in sorted(fixed & given.keys() & local.keys()):
        if given[variable] != local[variable]:
            yield Finding("CMP007", spec.name, f"{variable} is {given[variable]}, and {local[variable]} with make up")
    if given.get("PATCHBAY_HTTP_PORT") != CONTAINER_PORT:
        yield Finding("CMP007", spec.name, f"PATCHBAY_HTTP_PORT is not {CONTAINER_PORT}, the published port")
    if service.get("env_file") != [f".run/compose/{spec.name}.env"]:
        yield Finding("CMP007", spec.name, "its env file is not its own")
    if service.get("command") != ["python", "-m", spec.module]:
        yield Finding("CMP008", spec.name, f"command is not python -m {spec.module}")


def _services(compose: Mapping[str, Any]) -> Iterator[Finding]:
    services = compose["services"]
    for spec in SERVICES:
        if spec.name not in services:
            yield Finding("CMP008", spec.name, "missing")
            continue
        yield from _service(spec, services[spec.name])
        wanted = {"topics", "redis"} | ({f"migrate-{spec.name}"} if spec.database else set())
        for other in sorted(wanted - services[spec.name].get("depends_on", {}).keys()):
            yield Finding("CMP004", spec.name, f"does not wait for {other}")
        if spec.database:
            command = services.get(f"migrate-{spec.name}", {}).get("command")
            if command != ["python", *MIGRATE_COMMAND, spec.module]:
                yield Finding("CMP008", f"migrate-{spec.name}", "does not run the migration command of make up")
    if services.get("topics", {}).get("command") != ["python", *TOPICS_COMMAND]:
        yield Finding("CMP008", "topics", "does not run the topics command of make up")


def _kafka(compose: Mapping[str, Any], root: Path) -> Iterator[Finding]:
    service = compose["services"].get("kafka", {})
    pom = (root / "tools" / "kafka" / "pom.xml").read_text()
    version = re.findall(r"<kafka\.version>([^<]+)<", pom)[0]
    if service.get("image") != f"apache/kafka:{version}":
        yield Finding("CMP009", "kafka", f"image is not apache/kafka:{version}, the version of tools/kafka/pom.xml")
    given = _variables(service)
    for line in (root / "tools" / "kafka" / "server.properties").read_text().splitlines():
        key, separator, value = line.partition("=")
        if not separator or line.startswith("#") or key in KAFKA_ADDRESSES:
            continue
        variable = "KAFKA_" + key.upper().replace(".", "_")
        if given.get(variable) != value:
            yield Finding("CMP009", "kafka", f"{variable} is {given.get(variable)}, and {value} in tools/kafka")


def _prometheus(root: Path) -> Iterator[Finding]:
    folder = root / "deploy" / "prometheus"
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    for spec in SERVICES:
        if jobs.get(spec.name) != [f"{spec.name}:{CONTAINER_PORT}"]:
            yield Finding("CMP010", "prometheus.yml", f"does not scrape {spec.name}:{CONTAINER_PORT}")
    for rules in sorted((folder / "rules").glob("*.yml")):
        if not (folder / "tests" / f"{rules.stem}_test.yml").is_file():
            yield Finding("CMP010", f"rules/{rules.name}", f"has no tests/{rules.stem}_test.yml")


def check(root: Path = ROOT) -> list[Finding]:
    """Return everything that is wrong with the compose file below `root`; an empty list when it is right."""
    try:
        compose = yaml.safe_load((root / "docker-compose.yml").read_text())
    except (OSError, yaml.YAMLError) as error:
        return [Finding("CMP000", "docker-compose.yml", f"cannot be read: {error}")]
    if not isinstance(compose, dict) or not isinstance(compose.get("services"), dict):
        return [Finding("CMP000", "docker-compose.yml", "has no services")]
    rules = (_shape(compose), _dependencies(compose), _files(compose, root), _ports(compose), _services(compose))
    return [finding for rule in (*rules, _kafka(compose, root), _prometheus(root)) for finding in rule]


def main() -> int:
    """Entry point of `python -m tools.compose_check`."""
    findings = check()
    for finding in findings:
        print(finding)
    print(f"docker-compose.yml: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
