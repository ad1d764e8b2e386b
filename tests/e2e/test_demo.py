"""`patchbay demo` against the whole platform: every station is seen, and a second run is no different."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

# Two outages with their recovery; a run takes some forty seconds on two cores.
PATIENCE_S = 400


@pytest.mark.parametrize("run", ["first", "second"])
def test_demo_sees_every_station(platform: Any, run: str) -> None:
    environment = os.environ | platform.env | {"PATCHBAY_RUN_DIR": str(platform.stack.run_dir)}
    command = [sys.executable, "-m", "patchbay.main", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    told = f"{run} run:\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, told
    assert "MISSING" not in done.stdout, told
    assert done.stdout.rstrip().endswith("Every station was seen."), told


def test_demo_without_a_platform_says_what_is_missing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    environment |= {"PATCHBAY_RUN_DIR": str(tmp_path), "PATCHBAY_TOKEN": "test-token", "SYNC_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "patchbay.main", "demo"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "connections" in done.stdout
    assert "MISSING" in done.stdout
