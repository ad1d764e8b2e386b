"""Each rule with a folder that breaks it, and the whole on a copy of the library: scaffolding and deletion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "libs" / "providers"
REQUESTS = """
class Nothing:
    def build(self, operation, account): ...
    def parse(self, operation, response): ...
    def read_back(self, operation, account): ...
    def parse_read_back(self, operation, response): ...

OPERATIONS = {"payment.refund": Nothing()}
"""
OPERATION = """
[secrets.api_key]
description = "a key for the API"
use = ["api"]
required = false
[api]
base_url = "https://api.example.com"
auth.api_key = { kind = "bearer", secret = "api_key" }
[[operations]]
name = "payment.refund"
class = "pinned"
source = "https://example.com/refunds"
idempotency = { kind = "none" }
code = true
timeout_s = 10
"""


HANDSHAKE = """
[[webhook.handshakes]]
name = "hello"
match = { "body:/type" = "hello" }
verified = true
challenge = "body:/word"
text = "{challenge}"

[[webhook.entities]]"""
HELLO = {
    "source": "https://example.com/",
    "body": {"type": "hello", "word": "w"},
    "expect": {"status": 200, "text": "w"},
}
CHANGES = """\
schema = 1
slug = "acme"
name = "Acme"
category = "weather"
docs = "https://example.com/acme"
owners = ["@patchbay/platform"]
tier = "bronze"

[changes]
how = "poll"
path = "GET /current"
source = "https://example.com/acme"
"""


def run(*arguments: str | Path, library: Path = LIBRARY) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(library / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=240)


def check(root: Path) -> tuple[int, str]:
    done = run("tools/providers_check", "--root", root)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scaffold")
    made = run("tools/new_provider.py", "acme", "--root", root)
    assert made.returncode == 0, made.stderr
    return root / "acme"


@pytest.fixture
def acme(scaffold: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scaffold, tmp_path / "folders" / "acme"))


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def _edit(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return _edit


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Callable[[Path], None]:
    def _write(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    return _write


def both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def _all(folder: Path) -> None:
        for step in steps:
            step(folder)

    return _all


def test_shipped_folders_have_no_findings_either_way_of_running() -> None:
    for command in (["-m", "tools.providers_check"], ["tools/providers_check"]):
        done = run(*command)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize(
    ("breaking", "finding"),
    [
        (edit("manifest.toml", 'slug = "acme"', 'slug = "other"'), "acme: PRV001 slug other"),
        (remove("manifest.toml"), "acme: PRV001 manifest.toml cannot be read"),
        (edit("manifest.toml", "[webhook]", "[webhook]\ncolour = 1"), "acme: PRV001 manifest.toml: webhook.colour"),
        (edit("README.md", "## Quirks", "## Oddities"), "acme: PRV002 README.md has no section '## Quirks'"),
        (remove("README.md"), "acme: PRV002 README.md is missing"),
        (edit("quality.toml", 'golden = "done"\n', ""), "acme: PRV003 quality.toml does not state golden"),
        (edit("quality.toml", 'tier = "bronze"', 'tier = "gold"'), "acme: PRV003 quality.toml says tier gold"),
        (edit("quality.toml", '"done"', '{ exempt = "no" }'), "acme: PRV003 quality.toml: the exemption from readme"),
        (edit("quality.toml", '"done"', '"maybe"'), "acme: PRV003 quality.toml: readme is neither"),
        (edit("quality.toml", "[rules]", '[rules]\nshiny = "done"'), "acme: PRV003 quality.toml states shiny"),
        (
            edit("quality.toml", "[rules]", '[rules]\noperations = "done"'),
            "acme: PRV003 quality.toml says operations is",
        ),
        (
            edit("manifest.toml", '"thing.*"', '"thing.*", "invoice.*"'),
            "acme: PRV004 no fixture for event type invoice.*",
        ),
        (remove("fixtures/golden/thing.created.json"), "acme: PRV005 no golden reading of thing.created"),
        (edit("fixtures/golden/thing.created.json", "evt_1", "evt_2"), "acme: PRV005 the golden reading of"),
        (write("fixtures/golden/old.json", "{}"), "acme: PRV005 golden old.json has no fixture"),
        (edit("fixtures/webhooks/thing.created.json", '"type"', '"kind"'), "acme: PRV005 fixture thing.created cannot"),
        (
            write("normalise.py", "def normalise(t, e):\n    return []\n" + "#\n" * 499),
            "acme: PRV006 501 lines of Python",
        ),
        (edit("fixtures/vectors.toml", "valid = false", "valid = true"), "acme: PRV007 no invalid signing vector"),
        (edit("fixtures/vectors.toml", 'origin = "computed"', 'origin = "hearsay"'), "acme: PRV007 vector fresh needs"),
        (remove("fixtures/vectors.toml"), "acme: PRV007 fixtures/vectors.toml cannot be read"),
        (write("requests.py", REQUESTS), "acme: PRV008 operation payment.refund is in requests.py, but not declared"),
        (
            edit("manifest.toml", "[webhook]", f"{OPERATION}\n[webhook]"),
            "acme: PRV001 manifest.toml: manifest: Value error, capabilities lack ['payments']",
        ),
        (
            both(
                edit("manifest.toml", 'tier = "bronze"', 'tier = "bronze"\ncapabilities = ["payments"]'),
                edit("manifest.toml", "[webhook]", f"{OPERATION}\n[webhook]"),
            ),
            "acme: PRV008 operation payment.refund is declared with code, but not in OPERATIONS",
        ),
    ],
)
def test_a_broken_folder_is_found(acme: Path, breaking: Callable[[Path], None], finding: str) -> None:
    breaking(acme)
    code, out = check(acme.parent)
    assert code == 1
    assert finding in out


def test_handshakes_are_shown_and_hold(acme: Path) -> None:
    edit("manifest.toml", "\n[[webhook.entities]]", HANDSHAKE)(acme)
    assert "acme: PRV010 handshake hello has no fixture" in check(acme.parent)[1]
    write("fixtures/handshakes/hello.json", json.dumps(HELLO))(acme)
    code, out = check(acme.parent)
    assert code == 0, out
    write("fixtures/handshakes/hello.json", json.dumps(HELLO | {"expect": {"status": 200, "text": "v"}}))(acme)
    assert "acme: PRV009 conformance: handshake_hello: the body differs" in check(acme.parent)[1]
    write("fixtures/handshakes/bye.json", json.dumps(HELLO))(acme)
    assert "acme: PRV010 fixtures/handshakes/bye belongs to no handshake" in check(acme.parent)[1]


def test_tiers_and_exemptions_are_listed(acme: Path) -> None:
    code, out = check(acme.parent)
    assert code == 0
    assert "acme: bronze, hmac" in out
    edit("manifest.toml", ', timestamp = "header:X-Timestamp", tolerance_s = 300', "")(acme)
    edit("manifest.toml", "{timestamp}.{body}", "{body}")(acme)
    assert "no case stale, future: the scheme bounds no time" in check(acme.parent)[1]


def test_a_provider_without_webhooks_says_how_changes_are_found(acme: Path) -> None:
    shutil.rmtree(acme / "fixtures")
    write("manifest.toml", CHANGES)(acme)
    write("quality.toml", 'tier = "bronze"\n\n[rules]\nreadme = "done"\n')(acme)
    code, out = check(acme.parent)
    assert code == 0, out
    assert "acme: bronze, changes: poll" in out
    edit("manifest.toml", 'how = "poll"', 'how = "none"')(acme)
    assert "acme: PRV001 manifest.toml: changes" in check(acme.parent)[1]


def test_golden_readings_can_be_written_anew(acme: Path) -> None:
    edit("fixtures/webhooks/thing.created.json", "evt_1", "evt_9")(acme)
    assert check(acme.parent)[0] == 1
    assert run("tools/providers_check", "--root", acme.parent, "--write-golden").returncode == 0
    reading = json.loads((acme / "fixtures/golden/thing.created.json").read_text(encoding="utf-8"))
    assert reading[0]["event_id"] == "evt_9"
    assert check(acme.parent)[0] == 0


@pytest.mark.parametrize("name", ["Acme", "9lives", "acme-pay", "x", "acme"])
def test_scaffold_refuses_bad_and_taken_names(acme: Path, name: str) -> None:
    made = run("tools/new_provider.py", name, "--root", acme.parent)
    assert made.returncode == 1
    assert made.stderr.strip()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    copy = tmp_path / "providers"
    shutil.copytree(LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def conformance(library: Path, *options: str) -> subprocess.CompletedProcess[str]:
    common = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(library)]
    return run("-m", "pytest", *common, *options, library, library=library)


def test_a_scaffolded_provider_conforms_at_once(library: Path) -> None:
    assert run("tools/new_provider.py", "acme_pay", library=library).returncode == 0
    assert (library / "src" / "providers" / "acme_pay" / "manifest.toml").is_file()
    assert run("tools/providers_check", library=library).returncode == 0
    done = conformance(library, "-k", "acme_pay")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("gone", ["first", "all"])
def test_deleting_folders_leaves_the_rest_working(library: Path, gone: str) -> None:
    folders = sorted(path.parent for path in (library / "src" / "providers").glob("*/manifest.toml"))
    for folder in folders if gone == "all" else folders[:1]:
        shutil.rmtree(folder)
    done = conformance(library, "-k", "registry or manifest or golden or conforms")
    assert done.returncode == 0, done.stdout
    assert run("tools/providers_check", library=library).returncode == 0
