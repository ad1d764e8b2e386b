from __future__ import annotations

from pathlib import Path

import pytest

from patchbay.environment import CliError, load_environment


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GATEWAY_URL", "LEDGER_URL", "PATCHBAY_TOKEN", "PATCHBAY_RUN_DIR"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / ".run"
    folder.mkdir()
    (folder / "env").write_text("GATEWAY_URL=http://127.0.0.1:1\nPATCHBAY_TOKEN='a token'\n")
    return folder


def test_run_folder_is_found_from_below(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = run_dir.parent / "some" / "folder"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    environment = load_environment()
    assert environment["GATEWAY_URL"] == "http://127.0.0.1:1"
    assert environment["PATCHBAY_TOKEN"] == "a token"
    assert environment.traces == run_dir / "traces"


def test_process_environment_wins(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_RUN_DIR", str(run_dir))
    monkeypatch.setenv("GATEWAY_URL", "http://elsewhere:1")
    monkeypatch.setenv("LEDGER_URL", "http://elsewhere:2")
    environment = load_environment()
    assert environment["GATEWAY_URL"] == "http://elsewhere:1"
    assert environment["LEDGER_URL"] == "http://elsewhere:2"


def test_missing_variable_says_what_to_run(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHBAY_RUN_DIR", str(run_dir))
    with pytest.raises(CliError, match=r"LEDGER_URL is not set.*make up"):
        load_environment()["LEDGER_URL"]
