"""What `make up` writes down: ports, pids, the env file and the issuer's token."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.processes import ProcessError, spawn
from tools.dev import packages
from tools.dev.identity import Issuer, ensure_keyring
from tools.dev.state import RunState, env_lines
from tools.dev.table import BY_NAME, JWT_AUDIENCE, JWT_ISSUER, SERVICES, Facts, environment


def test_a_shell_reads_the_env_file_back_unchanged(tmp_path: Path) -> None:
    values = {"URL": "http://127.0.0.1:1/a?b=c&d", "ODD": 'it\'s "$HOME" `id` \\ # *', "EMPTY": ""}
    (tmp_path / "env").write_text(env_lines(values))
    script = f'. {tmp_path}/env; printf "%s\\n" "$URL" "$ODD" "$EMPTY"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == list(values.values())


def test_ports_are_remembered_and_a_taken_one_is_named_and_replaced(tmp_path: Path) -> None:
    state, told = RunState(tmp_path), list[str]()
    wish = free_port()
    first = state.ports({"gateway": wish, "ledger": None}, told.append)
    assert first["gateway"] == wish
    assert RunState(tmp_path).ports({"gateway": None, "ledger": None}, told.append) == first
    assert told == []
    with socket.create_server((LOOPBACK, wish)):
        second = state.ports({"gateway": wish, "ledger": None}, told.append)
    assert second["gateway"] != wish
    assert second["ledger"] == first["ledger"]
    assert told == [f"port {wish} for gateway is taken by another program; using {second['gateway']}"]
    assert state.remembered_ports() == second


def test_a_torn_record_of_ports_or_pids_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text('{"gateway": 87')
    (tmp_path / "pids.json").write_text('{"kafka": {"pid": 1}}')
    state = RunState(tmp_path)
    assert state.remembered_ports() == {}
    assert state.processes() == {}


def test_processes_are_recorded_in_order_and_found_by_another_process(tmp_path: Path) -> None:
    state = RunState(tmp_path)
    sleepers = {name: spawn([sys.executable, "-c", "input()"], log=tmp_path / name) for name in ("kafka", "gateway")}
    for name, process in sleepers.items():
        state.record(name, process)
    found = RunState(tmp_path).processes()
    assert {name: process.ref for name, process in found.items()} == {n: p.ref for n, p in sleepers.items()}
    assert list(found) == ["kafka", "gateway"]
    for process in sleepers.values():
        process.kill()
    assert not any(process.alive() for process in found.values())


def test_only_one_up_or_down_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(ProcessError, match="another make up or make down")
    with RunState(tmp_path).locked(), refused, RunState(tmp_path).locked():
        pass
    with RunState(tmp_path).locked():
        pass


def test_the_token_verifies_against_the_key_set_and_keys_are_private(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "issuer")
    issuer.ensure()
    before = issuer.jwks.read_text()
    issuer.ensure()
    assert issuer.jwks.read_text() == before
    key = jwt.PyJWKSet.from_json(before)[jwt.get_unverified_header(issuer.token())["kid"]]
    claims = jwt.decode(issuer.token(["viewer"]), key, algorithms=["ES256"], audience=JWT_AUDIENCE, issuer=JWT_ISSUER)
    assert (claims["sub"], claims["roles"]) == ("local-operator", ["viewer"])
    assert claims["exp"] - claims["iat"] == 30 * 24 * 3600
    assert stat.S_IMODE((tmp_path / "issuer" / "key.pem").stat().st_mode) == 0o600
    assert "d" not in json.loads(before)["keys"][0]


def test_a_keyring_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "keyring.json"
    ensure_keyring(file)
    before = file.read_text()
    ensure_keyring(file)
    assert file.read_text() == before
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(before)["current"] == 1


def test_a_service_gets_its_own_database_and_the_request_path_none() -> None:
    names = [spec.name for spec in SERVICES]
    urls = {name: f"http://{name}" for name in names}
    facts = Facts(
        "k",
        "r",
        Path("j"),
        Path("y"),
        Path("t"),
        Path("c"),
        urls,
        dict.fromkeys(names, 1),
        {n: f"dsn-{n}" for n in names},
    )
    for name in ("gateway", "sandbox"):
        assert "PATCHBAY_DATABASE_URL" not in environment(BY_NAME[name], facts)
    sync = environment(BY_NAME["sync-worker"], facts)
    assert sync["PATCHBAY_DATABASE_URL"] == "dsn-sync-worker"
    assert sync["PATCHBAY_PUBLIC_GATEWAY_URL"] == "http://gateway"
    assert sync["PATCHBAY_PROVIDER_BASE_URL_OVERRIDE"] == "http://sandbox"


def test_missing_packages_without_the_right_to_install_name_the_one_line_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(packages, "_has_postgres", lambda: False)
    with pytest.raises(ProcessError) as failure:
        packages.ensure(lambda _line: None)
    lines = str(failure.value).splitlines()
    assert lines[1].startswith("    sudo apt-get install -y --no-install-recommends default-jre-headless maven ")
    assert "redis-server" in lines[1]
    assert len(lines) == 2


def test_nothing_is_installed_when_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("java", "mvn", "redis-server"):
        (tmp_path / program).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(packages._RUN_PACKAGES, "postgresql", lambda: True)
    told: list[str] = []
    packages.ensure(told.append)
    assert told == []
