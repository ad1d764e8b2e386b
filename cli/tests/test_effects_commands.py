from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.errors import Invalid
from patchbay import main
from patchbay.effects import parsed
from patchbay.environment import CliError

Asked = list[tuple[str, str, Any]]

EFFECT: dict[str, Any] = {
    "key": "k1",
    "operation": "payment.refund",
    "provider": "acme",
    "tenant": "t1",
    "state": "unknown",
    "code": "needs_settlement",
    "provider_ref": "",
    "calls": 2,
    "result": {},
    "sealed_result": False,
    "updated_at": "2026-11-21T12:00:00Z",
    "explanation": "sent to acme without a known outcome",
}


class Worker:
    """Answers like the sync worker; an effect ends after two looks at it."""

    def __init__(self) -> None:
        self.looks = 0
        self.final = "applied"
        self.sealed = False
        self.result: dict[str, Any] = {}

    def __call__(self, method: str, path: str, _body: Any) -> tuple[int, Any]:
        self.looks += method == "GET"
        if "?" in path:
            return 200, {"items": [EFFECT]}
        if path.endswith("/settle"):
            return 200, EFFECT | {"state": "applied", "explanation": "done by acme as r1"}
        if path.endswith("/result"):
            return 200, {"key": "k1", "result": self.result}
        end = {"state": self.final, "explanation": "the end", "sealed_result": self.sealed}
        return 200, EFFECT | (end | ({} if self.sealed else {"result": self.result}) if self.looks > 1 else {})


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def asked(serve_as: Callable[..., Asked], worker: Worker) -> Asked:
    return serve_as("SYNC_URL", worker)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["patchbay", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.app()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "case",
    [
        (
            ("effects", "list", "--state", "unknown", "--saga", "s1"),
            ("GET", "/v1/effects?saga_id=s1&state=unknown&limit=50", None),
            "payment.refund",
        ),
        (
            ("effects", "explain", "k1"),
            ("GET", "/v1/effects/k1", None),
            "unknown: sent to acme without a known outcome",
        ),
        (
            ("effects", "settle", "k1", "--outcome", "applied", "--provider-ref", "r1", "--reason", "seen there"),
            ("POST", "/v1/effects/k1/settle", {"outcome": "applied", "provider_ref": "r1", "reason": "seen there"}),
            "k1 is applied: done by acme as r1",
        ),
        (
            ("effects", "settle", "k1", "--outcome", "retry", "--reason", "it is not there"),
            ("POST", "/v1/effects/k1/settle", {"outcome": "retry", "provider_ref": "", "reason": "it is not there"}),
            "k1 is",
        ),
    ],
)
def test_a_command_asks_the_service_and_prints_its_answer(
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[tuple[str, ...], tuple[str, str, Any], str],
) -> None:
    arguments, expected, printed = case
    assert run(monkeypatch, *arguments) == 0
    assert asked == [expected]
    assert printed in capsys.readouterr().out


def test_a_result_is_printed_as_json_and_nothing_else(
    asked: Asked, worker: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    worker.result = {"content": {"workers": [{"name": "Zoë " + 300 * "x"}]}}
    assert run(monkeypatch, "effects", "result", "k1") == 0
    assert asked == [("GET", "/v1/effects/k1/result", None)]
    assert json.loads(capsys.readouterr().out) == worker.result


@pytest.mark.parametrize("sealed", [True, False])
def test_who_waits_for_an_operation_sees_what_it_found(
    asked: Asked, worker: Worker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, sealed: bool
) -> None:
    worker.sealed, worker.result = sealed, {"temperature": "21.5"}
    monkeypatch.setattr("patchbay.effects._POLL_S", 0.01)
    assert run(monkeypatch, "run", "balance.read", "--tenant", "t1") == 0
    told = capsys.readouterr().out
    assert json.loads(told.partition("the end\n")[2]) == worker.result
    assert ("GET", "/v1/effects/k1/result", None) in asked or not sealed


@pytest.mark.parametrize("width", [None, 80])
def test_the_list_shows_keys_in_one_piece(
    serve_as: Callable[..., Asked],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int | None,
) -> None:
    long = EFFECT | {"key": "0123456789abcdef" * 4, "provider_ref": "r" * 90, "code": "c" * 60}
    serve_as("SYNC_URL", lambda *_: (200, {"items": [long]}))
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert run(monkeypatch, "effects", "list") == 0
    assert long["key"] in capsys.readouterr().out


@pytest.mark.parametrize(("outcome", "reference"), [("applied", ()), ("refused", ("--provider-ref", "r1"))])
def test_a_reference_belongs_to_what_was_applied(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, outcome: str, reference: tuple[str, ...]
) -> None:
    assert run(monkeypatch, "effects", "settle", "k1", "--outcome", outcome, "--reason", "why", *reference) == 1
    assert asked == []


REFUND = ("run", "payment.refund", "--tenant", "t1", "--mode", "sandbox", "--argument", "payment_external_id=0042")


@pytest.mark.parametrize("end", [("applied", 0), ("refused", 1)])
def test_an_operation_is_asked_for_once_and_waited_for(
    asked: Asked,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: tuple[str, int],
) -> None:
    final, code = end
    worker.final = final
    monkeypatch.setattr("patchbay.effects._POLL_S", 0.01)
    assert run(monkeypatch, *REFUND, "--argument", "amount=500", "--provider", "acme") == code
    posted = [body for method, _, body in asked if method == "POST"]
    assert posted == [
        {
            "operation": "payment.refund",
            "tenant": "t1",
            "mode": "sandbox",
            "lane": "standard",
            "provider": "acme",
            "arguments": {"payment_external_id": "0042", "amount": 500},
        }
    ]
    told = capsys.readouterr().out
    assert "effect k1" in told
    assert f"{final}: the end" in told
    assert "0042" not in told


def test_an_emergency_needs_a_reason_and_says_it(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, *REFUND, "--wait", "0", "--emergency") == 1
    assert asked == []
    assert run(monkeypatch, *REFUND, "--wait", "0", "--emergency", "--reason", "the venue burns") == 0
    ((_, _, body),) = asked
    assert (body["emergency"], body["reason"]) == (True, "the venue burns")


def test_who_does_not_wait_gets_the_key_alone(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *REFUND, "--wait", "0") == 0
    assert [method for method, _, _ in asked] == ["POST"]
    assert capsys.readouterr().out.strip() == "effect k1"


def test_arguments_come_from_a_file_and_the_command_line_wins(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "arguments.json"
    file.write_text('{"amount": 1, "reason": "damaged"}')
    assert run(monkeypatch, *REFUND, "--arguments-file", str(file), "--argument", "amount=2", "--wait", "0") == 0
    assert asked[0][2]["arguments"] == {"amount": 2, "reason": "damaged", "payment_external_id": "0042"}
    file.write_text("[1]")
    assert run(monkeypatch, *REFUND, "--arguments-file", str(file)) == 1


def test_arguments_have_the_operations_names_and_types() -> None:
    assert parsed("payment.refund", ["payment_external_id=007", "amount=42"]) == {
        "payment_external_id": "007",
        "amount": 42,
    }
    with pytest.raises(CliError, match="no argument sum; it takes payment_external_id"):
        parsed("payment.refund", ["sum=1"])
    with pytest.raises(CliError, match="NAME=VALUE"):
        parsed("payment.refund", ["amount"])
    with pytest.raises(Invalid):
        parsed("payment.invented", ["amount=1"])


def test_everything_that_is_wrong_is_told_at_once(
    serve_as: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [{"field": f"arguments.{name}", "rule": "Field required"} for name in ("currency", "reason")]
    problem = {"code": "bad_argument", "detail": "arguments.currency: Field required", "errors": errors}
    serve_as("SYNC_URL", lambda *_: (422, problem))
    assert run(monkeypatch, *REFUND) == 1
    told = capsys.readouterr().err
    assert "422 bad_argument" in told
    assert "\n  arguments.currency: Field required\n  arguments.reason: Field required\n" in told


def test_an_operation_that_is_misspelt_is_told_what_comes_near(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "run", "payment.refunds", "--tenant", "t1", "--argument", "amount=1") == 1
    assert "did you mean payment.refund" in capsys.readouterr().err
    assert asked == []
