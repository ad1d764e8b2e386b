"""A stack comes up, survives a second `up`, cleans up after a half-dead run and says whose fault a failure is.

The service in it is a stand-in of a few lines, so that these tests prove the stack and nothing else.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from chassis.testing.ports import accepts
from chassis.testing.processes import ProcessError
from tools.dev import stack as stack_module
from tools.dev.stack import Stack

pytestmark = pytest.mark.integration

STAND_IN = """
import json, os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        reason = os.environ.get("PATCHBAY_NOT_READY")
        self.send_response(503 if self.path == "/ready" and reason else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"reasons": [reason]} if reason else dict(os.environ)).encode())

    def log_message(self, *_arguments):
        pass

print("listening", flush=True)
HTTPServer(("127.0.0.1", int(os.environ["PATCHBAY_HTTP_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    package = tmp_path / "fakes" / "webhook_gateway"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    return {"PYTHONPATH": str(package.parent)}


def _seen_environment(stack: Stack) -> dict[str, str]:
    with urllib.request.urlopen(stack.url("gateway"), timeout=5) as answer:
        values: dict[str, str] = json.load(answer)
    return values


def test_a_stack_starts_once_survives_a_crash_and_stops_all_it_started(
    tmp_path: Path, stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHBAY_ROLE", "a setting from the caller's shell")
    run_dir = tmp_path / "run"
    stack = Stack(run_dir, ["gateway"], extra_env={"gateway": stand_in})
    assert stack.up()
    seen = _seen_environment(stack)
    assert seen["PATCHBAY_ROLE"] == "ingest"
    assert seen["PATCHBAY_KAFKA_BOOTSTRAP"] == stack.kafka.bootstrap
    pids = {name: process.pid for name, process in stack.processes().items()}
    assert list(pids)[-1] == "gateway"
    assert set(pids) == {"kafka", "postgres", "redis", "gateway"}

    # A second up, from another process' point of view, changes nothing but the token.
    again = Stack(run_dir, ["gateway"], extra_env={"gateway": stand_in})
    assert not again.up()
    assert {name: process.pid for name, process in again.processes().items()} == pids
    assert (run_dir / "env").stat().st_mode & 0o077 == 0

    # A crashed service can be started alone; a run whose broker died as well is started afresh.
    again.kill("gateway")
    assert not again.running()
    again.start("gateway", {"PATCHBAY_EXTRA": "1"})
    assert _seen_environment(again)["PATCHBAY_EXTRA"] == "1"
    again.kafka.kill()
    third = Stack(run_dir, ["gateway"], extra_env={"gateway": stand_in})
    assert third.up()
    assert third.kafka.bootstrap == stack.kafka.bootstrap
    old = [again.processes()[name] for name in again.processes()]
    assert not {process.pid for process in old} & set(pids.values())

    ports = [third.kafka.port, third.postgres.port, third.redis.port, int(third.url("gateway").rpartition(":")[2])]
    assert all(accepts(port) for port in ports)
    assert Stack(run_dir, ["gateway"]).down() == []
    assert not any(accepts(port) for port in ports)
    assert third.processes() == {}
    assert Stack(run_dir, ["gateway"]).down() == []


def test_a_service_that_does_not_get_ready_is_named_with_its_log_and_reasons_and_nothing_stays(
    tmp_path: Path, stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "READY_DEADLINE_S", 2.0)
    env = stand_in | {"PATCHBAY_NOT_READY": "the broker does not answer"}
    stack = Stack(tmp_path / "run", ["gateway"], extra_env={"gateway": env})
    with pytest.raises(ProcessError, match=r"(?s)gateway was not ready.*listening.*503.*the broker does not answer"):
        stack.up()
    assert not any(accepts(server.port) for server in (stack.kafka, stack.postgres, stack.redis))
    assert stack.processes() == {}


def test_an_unknown_service_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such service: gatewax; there are gateway, ledger"):
        Stack(tmp_path, ["gatewax"])
