"""The compose check passes on the repository and names what is wrong with a broken copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import compose_env
from tools.compose_check import check
from tools.compose_env import ROOT
from tools.dev.table import SERVICES


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give the files that the check looks at, in a folder of their own."""
    shutil.copyfile(ROOT / "docker-compose.yml", tmp_path / "docker-compose.yml")
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "tools" / "kafka", tmp_path / "tools" / "kafka")
    for project in [*ROOT.glob("services/*/pyproject.toml"), ROOT / "sandbox" / "pyproject.toml"]:
        target = tmp_path / project.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copyfile(project, target)
    return tmp_path


def _edit(copy: Path, change: Callable[[Any], object]) -> list[str]:
    file = copy / "docker-compose.yml"
    compose = yaml.safe_load(file.read_text())
    change(compose["services"])
    file.write_text(yaml.safe_dump(compose))
    return [str(finding) for finding in check(copy)]


def test_the_repository_passes() -> None:
    assert check(ROOT) == []


def test_an_unchanged_copy_passes(copy: Path) -> None:
    assert _edit(copy, lambda _: None) == []


def _rename(services: Any, old: str, new: str) -> None:
    services["ledger"]["environment"][new] = services["ledger"]["environment"].pop(old)


BROKEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "misspelt key": (lambda s: s["redis"].update(enviroment={}), "CMP001 redis: unknown key enviroment"),
    "image without a version": (lambda s: s["redis"].update(image="redis:latest"), "CMP002 redis: image redis:latest"),
    "no health check": (lambda s: s["gateway"].pop("healthcheck"), "CMP003 gateway: no health check"),
    "missing dependency": (lambda s: s.pop("migrate-ledger"), "CMP004 ledger: depends on migrate-ledger"),
    "does not wait": (lambda s: s["ledger"]["depends_on"].pop("topics"), "CMP004 ledger: does not wait for topics"),
    "waits for the end of a server": (
        lambda s: s["ledger"]["depends_on"].update(redis={"condition": "service_completed_successfully"}),
        "CMP004 ledger: service_completed_successfully does not fit redis",
    ),
    "file that is not there": (
        lambda s: s["prometheus"].update(volumes=["./deploy/gone.yml:/x:ro"]),
        "CMP005 prometheus: ./deploy/gone.yml does not exist",
    ),
    "env file nobody makes": (
        lambda s: s["redis"].update(env_file=[".run/compose/other.env"]),
        "CMP005 redis: .run/compose/other.env is not made",
    ),
    "no such Dockerfile": (
        lambda s: s["sandbox"]["build"].update(dockerfile="Dockerfile"),
        "CMP005 sandbox: Dockerfile does not exist",
    ),
    "no such package": (
        lambda s: s["sandbox"]["build"].update(args={"SERVICE": "services/sandbox"}),
        "CMP005 sandbox: build argument SERVICE=services/sandbox",
    ),
    "port twice": (
        lambda s: s["grafana"].update(ports=["127.0.0.1:9090:3000"]),
        "CMP006 prometheus: port 9090 is also grafana's",
    ),
    "port open to the network": (
        lambda s: s["postgres"].update(ports=["8792:5432"]),
        "CMP006 postgres: port 8792:5432",
    ),
    "another port than make up": (
        lambda s: s["gateway"].update(ports=["127.0.0.1:8799:8000"]),
        "CMP006 gateway: does not publish 127.0.0.1:8700:8000",
    ),
    "renamed setting": (
        lambda s: _rename(s, "PATCHBAY_KEYRING", "PATCHBAY_KEY_RING"),
        "CMP007 ledger: PATCHBAY_KEYRING is set by make up and missing here",
    ),
    "setting make up does not know": (
        lambda s: _rename(s, "PATCHBAY_KEYRING", "PATCHBAY_KEY_RING"),
        "CMP007 ledger: PATCHBAY_KEY_RING is not set by make up",
    ),
    "password in the file": (
        lambda s: s["ledger"]["environment"].update(PATCHBAY_DATABASE_URL="postgresql://x"),
        "CMP007 ledger: PATCHBAY_DATABASE_URL holds a password",
    ),
    "wrong role": (
        lambda s: s["ledger"]["environment"].update(PATCHBAY_ROLE="ingest"),
        "CMP007 ledger: PATCHBAY_ROLE is ingest, and ledger with make up",
    ),
    "other topics": (
        lambda s: s["topics"].update(command=["kafka-topics.sh", "--create"]),
        "CMP008 topics: does not run the topics command",
    ),
    "other module": (
        lambda s: s["verification"].update(command=["python", "-m", "orchestrator"]),
        "CMP008 verification: command is not python -m verification",
    ),
    "missing service": (lambda s: s.pop("sandbox"), "CMP008 sandbox: missing"),
    "other broker": (
        lambda s: s["kafka"].update(image="apache/kafka:3.9.0"),
        "CMP009 kafka: image is not apache/kafka:",
    ),
    "other broker setting": (
        lambda s: s["kafka"]["environment"].update(KAFKA_AUTO_CREATE_TOPICS_ENABLE="true"),
        "CMP009 kafka: KAFKA_AUTO_CREATE_TOPICS_ENABLE is true",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_refused(copy: Path, name: str) -> None:
    change, expected = BROKEN[name]
    findings = _edit(copy, change)
    assert any(finding.startswith(expected) for finding in findings), findings


def test_a_rule_file_without_a_test_is_refused(copy: Path) -> None:
    (copy / "deploy" / "prometheus" / "tests" / "kafka_test.yml").unlink()
    assert [str(f) for f in check(copy)] == ["CMP010 rules/kafka.yml: has no tests/kafka_test.yml"]


def test_an_unscraped_service_is_refused(copy: Path) -> None:
    file = copy / "deploy" / "prometheus" / "prometheus.yml"
    file.write_text(file.read_text().replace("ledger:8000", "ledger:9000"))
    assert [str(f) for f in check(copy)] == ["CMP010 prometheus.yml: does not scrape ledger:8000"]


def test_a_file_that_is_no_yaml_is_one_finding(copy: Path) -> None:
    (copy / "docker-compose.yml").write_text("services: [")
    assert [finding.code for finding in check(copy)] == ["CMP000"]


def test_compose_env_is_idempotent_private_and_gives_each_service_its_own_database(tmp_path: Path) -> None:
    folder = tmp_path / "compose"
    compose_env.write(folder)
    first = {path.name: path.read_text() for path in folder.glob("*.env")}
    compose_env.write(folder)
    assert {path.name: path.read_text() for path in folder.glob("*.env")} == first
    assert folder.stat().st_mode & 0o077 == 0
    assert {path.name for path in folder.iterdir()} >= compose_env.file_names()
    passwords = {spec.database: first[f"{spec.name}.env"].split("@")[1] for spec in SERVICES if spec.database}
    assert len(passwords) == 5
    sql = (folder / "databases.sql").read_text()
    assert sql.count("REVOKE ALL ON DATABASE") == 5
    # The key that signs tokens is not among the mounted ones.
    assert {path.name for path in (folder / "keys").iterdir()} == {"jwks.json", "keyring.json"}
