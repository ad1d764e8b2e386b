"""`patchbay conformance` in process: every folder, inbound and outbound, and what a run with a failure looks like."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchbay import conformance, main
from providers import outbound_conformance, registry
from providers.outbound_conformance import Check

SENDERS = [provider for provider in registry.all_providers() if provider.manifest.webhook is not None]
SLUG = SENDERS[0].slug
CALLED = [provider for provider in registry.all_providers() if provider.manifest.operations]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.delenv("PATCHBAY_WEBHOOK_SECRET", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["patchbay", "conformance", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.app()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def test_every_folder_conforms(run: Run) -> None:
    code, told, _ = run("--json")
    found: dict[str, Any] = json.loads(told)
    wrong = [one for one in found["cases"] if one["outcome"] == "failed"]
    assert (code, wrong, found["failed"]) == (0, [], 0)
    assert {one["provider"] for one in found["cases"]} == {provider.slug for provider in SENDERS}
    assert found["passed"] > 10 * len(SENDERS)
    assert all(one["detail"] for one in found["cases"] if one["outcome"] == "exempt")


def test_one_provider_is_a_table_with_the_reasons_of_exemptions(run: Run) -> None:
    code, told, _ = run("--provider", SLUG)
    results = list(conformance.in_process(SENDERS[0]))
    passed = sum(one.outcome == "passed" for one in results)
    exempt = [one for one in results if one.outcome == "exempt"]
    assert code == 0
    assert f"{passed} passed, {len(exempt)} exempt, 0 failed" in told
    assert all(one.case in told for one in exempt)


def test_a_failed_case_is_named_and_ends_with_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        conformance, "failure", lambda case, _: f"{case.name}: answered 500" if case.name == "accept" else None
    )
    code, told, _ = run("--provider", SLUG)
    assert code == 1
    assert "accept: answered 500" in told
    assert "1 failed" in told


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--provider", "nosuchprovider"), "no provider nosuchprovider"),
        (("--url", "http://127.0.0.1:1/"), "--url needs --provider"),
        (("--provider", SLUG, "--url", "http://127.0.0.1:1/"), "give the endpoint's secret"),
        (("--provider", SLUG, "--url", "http://127.0.0.1:1/", "--secret-file", "/no/such/file"), "cannot be read"),
        (("--provider", SLUG, "--option", "nonsense"), "not NAME=VALUE"),
        (("--provider", SLUG, "--option", "nosuchoption=1"), "no option nosuchoption"),
        (("--outbound", "--url", "http://127.0.0.1:1/"), "--outbound sends nothing"),
        (("--outbound", "--provider", "nosuchprovider"), "no provider nosuchprovider"),
    ],
)
def test_a_run_that_cannot_be_made_says_why(run: Run, arguments: tuple[str, ...], why: str) -> None:
    code, _, told = run(*arguments)
    assert code == 1
    assert why in told


def test_a_provider_without_webhooks_has_nothing_to_conform_to(run: Run) -> None:
    without = next(one.slug for one in registry.all_providers() if one.manifest.webhook is None)
    code, _, told = run("--provider", without)
    assert code == 1
    assert f"{without} sends no webhooks" in told


def test_an_endpoint_that_is_away_ends_with_one_and_the_secret_stays_untold(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SENDERS[0].verifier().generate().signing + "\n")
    code, told, complained = run(
        *("--provider", SLUG, "--url", "http://127.0.0.1:1/hooks/ep", "--secret-file", str(file))
    )
    assert code == 1
    assert "does not answer" in complained
    assert file.read_text().strip() not in told + complained


def test_every_folder_with_operations_conforms_outbound(run: Run) -> None:
    code, told, _ = run("--outbound", "--json")
    found: dict[str, Any] = json.loads(told)
    assert (code, found["failed"]) == (0, 0), [one for one in found["cases"] if one["outcome"] == "failed"]
    assert {one["provider"] for one in found["cases"]} == {provider.slug for provider in CALLED}
    assert found["passed"] > 10 * len(CALLED)
    assert all(one["detail"] for one in found["cases"] if one["outcome"] == "exempt")


def test_an_outbound_failure_is_named_with_its_operation_and_ends_with_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [
        Check("payment.refund", "key", "there is no key"),
        Check("payment.refund", "looks up", exempt="by a person"),
        Check("", "classifies 429"),
    ]
    monkeypatch.setattr(outbound_conformance, "checks", lambda _: iter(checks))
    code, told, _ = run("--outbound", "--provider", CALLED[0].slug)
    assert code == 1
    assert "payment.refund key: there is no key" in told
    assert "by a person" in told
    assert "1 passed, 1 exempt, 1 failed" in told


def test_a_provider_without_operations_has_no_outbound_side(run: Run) -> None:
    without = next(one.slug for one in registry.all_providers() if not one.manifest.operations)
    code, _, told = run("--outbound", "--provider", without)
    assert code == 1
    assert f"{without} offers no operations" in told
