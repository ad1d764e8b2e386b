from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.linters.__main__ import ROOT, main
from tools.linters.runner import RULES, findings
from tools.linters.source import Finding, Project, Source, load

SERVICE = "services/my-service/src/my_service/thing.py"
LIBRARY = "libs/mine/src/mine/thing.py"
TEST = "libs/mine/tests/test_thing.py"
MANIFEST = "libs/providers/src/providers/acme-pay/manifest.toml"
PROVIDER = {MANIFEST: 'name = "Acme Pay"\ncategory = "payments"\n'}
CORE = ("__init__", "__main__", "app", "settings", "handlers", "models", "repository", "metrics")


def project(files: dict[str, str]) -> Project:
    return Project(Path("/nowhere"), tuple(Source(path, text) for path, text in files.items()))


def found(files: dict[str, str]) -> list[tuple[str, int, str]]:
    return [(finding.path, finding.line, finding.rule) for finding in findings(project(files))]


def lines(count: int) -> str:
    return "x = 1\n" * count


def function(body: int, parameters: str = "") -> str:
    return f"def f({parameters}):\n" + "    x = 1\n" * (body - 1)


def methods(count: int) -> str:
    return "class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(count))


VIOLATIONS = [
    ("PB001", {**PROVIDER, SERVICE: 'x = "acme-pay"\n'}, SERVICE, 1),
    ("PB001", {**PROVIDER, SERVICE: "x = 1\n# as AcmePay does\n"}, SERVICE, 2),
    ("PB001", {**PROVIDER, SERVICE: "def acme_pay_total(): ...\n"}, SERVICE, 1),
    (
        "PB001",
        {**PROVIDER, "services/my-service/README.md": "Works with Acme Pay.\n"},
        "services/my-service/README.md",
        1,
    ),
    ("PB001", {**PROVIDER, "services/a.toml": "ACME_PAY_KEY = 1\n"}, "services/a.toml", 1),
    ("PB002", {SERVICE: "session.commit()\n"}, SERVICE, 1),
    ("PB002", {LIBRARY: "async def f(s):\n    await s.session.commit()\n"}, LIBRARY, 2),
    ("PB003", {SERVICE: "from datetime import datetime\nx = datetime.now()\n"}, SERVICE, 2),
    ("PB003", {SERVICE: "import datetime as dt\nx = dt.datetime.utcnow()\n"}, SERVICE, 2),
    ("PB003", {SERVICE: "from time import time as now\nx = now()\n"}, SERVICE, 2),
    ("PB003", {LIBRARY: "import time\nf = retry(sleep=time.sleep)\n"}, LIBRARY, 2),
    ("PB004", {SERVICE: 'x = "sync.changes.v1"\n'}, SERVICE, 1),
    ("PB004", {SERVICE: 'x = f"gateway.events-{lane}.v1.dlq"\n'}, SERVICE, 1),
    ("PB005", {SERVICE: 'from prometheus_client import Counter\nx = Counter("a_total", "h")\n'}, SERVICE, 2),
    (
        "PB005",
        {SERVICE: 'from chassis.telemetry.metrics import Metric\nx = Metric(name="a", kind="gauge")\n'},
        SERVICE,
        2,
    ),
    ("PB006", {SERVICE: "try:\n    f()\nexcept:\n    raise\n"}, SERVICE, 3),
    ("PB006", {SERVICE: "try:\n    f()\nexcept Exception:\n    pass\n"}, SERVICE, 3),
    ("PB006", {TEST: "try:\n    f()\nexcept (ValueError, BaseException) as e:\n    x = 1\n"}, TEST, 3),
    ("PB006", {SERVICE: "from contextlib import suppress\nwith suppress(Exception):\n    f()\n"}, SERVICE, 2),
    ("PB007", {SERVICE: lines(401)}, SERVICE, 1),
    ("PB007", {SERVICE: function(61)}, SERVICE, 1),
    ("PB007", {SERVICE: function(2, "a, b, c, d, e, f, g, h")}, SERVICE, 1),
    ("PB007", {SERVICE: function(2, "self, a, b, c, d, *, e, f, g, h")}, SERVICE, 1),
    ("PB007", {SERVICE: methods(16)}, SERVICE, 1),
    ("PB007", {"libs/mine/src/mine/__init__.py": '"""Doc."""\nx = 1\n'}, "libs/mine/src/mine/__init__.py", 2),
    ("PB007", {**PROVIDER, **{MANIFEST.replace("manifest.toml", f"{n}.py"): lines(251) for n in "ab"}}, MANIFEST, 1),
    (
        "PB008",
        {"services/my-service/src/my_service/__init__.py": ""},
        "services/my-service/src/my_service/__init__.py",
        1,
    ),
    (
        "PB009",
        {"services/my-service/pyproject.toml": '[project]\nname = "my_service"\n', SERVICE: ""},
        "services/my-service/pyproject.toml",
        1,
    ),
    (
        "PB009",
        {"libs/mine/pyproject.toml": '[project]\nname = "mine"\n', "libs/mine/src/other/a.py": ""},
        "libs/mine/pyproject.toml",
        1,
    ),
    ("PB010", {"requirements/dev.in": "a @ https://example.invalid/a.whl\n"}, "requirements/dev.in", 1),
    ("PB010", {"uv.lock": ""}, "uv.lock", 1),
    ("PB010", {"docs/a.md": "see " + "pypi" + ".org\n"}, "docs/a.md", 1),
    ("PB010", {"pyproject.toml": '[tool.uv.pip]\nindex-url = "x"\n'}, "pyproject.toml", 2),
    ("PB011", {TEST: "import pytest\n@pytest.mark.skip\ndef test_a(): ...\n"}, TEST, 2),
    ("PB011", {TEST: 'import pytest\n@pytest.mark.xfail(reason="flaky")\ndef test_a(): ...\n'}, TEST, 2),
    ("PB011", {TEST: 'import pytest\n@pytest.mark.skipif(x, reason="slow")\ndef test_a(): ...\n'}, TEST, 2),
    ("PB011", {TEST: "import pytest\npytest.skip()\n"}, TEST, 2),
    ("PB011", {TEST: "import time\ntime.sleep(1)\n"}, TEST, 2),
    ("PB011", {TEST: "import asyncio\nasync def test_a():\n    await asyncio.sleep(0.1)\n"}, TEST, 3),
    ("PB000", {SERVICE: "def (:\n"}, SERVICE, 1),
]

CLEAN = [
    ("PB001", {**PROVIDER, SERVICE: 'x = "acmepaying"\n', LIBRARY: 'x = "acme-pay"\n'}),
    ("PB001", {MANIFEST: 'name = "Acme Pay"\ncategory = "generic"\n', SERVICE: "# Acme Pay is a standard\n"}),
    ("PB002", {"libs/chassis/src/chassis/db/uow.py": "session.commit()\n", TEST: "session.commit()\n"}),
    (
        "PB003",
        {"libs/chassis/src/chassis/clock.py": "import time\ntime.time()\n", SERVICE: "import time\ntime.monotonic()\n"},
    ),
    ("PB003", {SERVICE: "def f(clock):\n    return clock.now()\n"}),
    ("PB004", {"libs/contracts/src/contracts/topics.py": 'x = "sync.changes.v1"\n', TEST: 'x = "sync.changes.v1"\n'}),
    ("PB004", {SERVICE: 'x = "payment.changed.v1"\ny = "sync.changes"\n'}),
    ("PB005", {"services/a/src/a/metrics.py": 'from prometheus_client import Counter\nx = Counter("a", "h")\n'}),
    ("PB005", {SERVICE: 'from collections import Counter\nx = Counter("abracadabra")\n'}),
    ("PB006", {SERVICE: "try:\n    f()\nexcept Exception:\n    log.exception('failed')\n"}),
    ("PB006", {SERVICE: "try:\n    f()\nexcept Exception as e:\n    answer.set_exception(e)\n"}),
    ("PB006", {SERVICE: "from contextlib import suppress\nwith suppress(KeyError):\n    f()\n"}),
    ("PB007", {SERVICE: lines(400), LIBRARY: function(60, "self, a, b, c, d, e, f, g") + methods(15)}),
    ("PB007", {"libs/mine/src/mine/__init__.py": '"""Doc."""\nfrom a import b\n__all__ = ["b"]\n'}),
    ("PB007", {"services/a/src/a/migrations/versions/0001.py": lines(401)}),
    ("PB008", {f"services/my-service/src/my_service/{name}.py": "" for name in CORE}),
    ("PB009", {"services/my-service/pyproject.toml": '[project]\nname = "my-service"\n', SERVICE: ""}),
    ("PB010", {"requirements/dev.in": "pytest>=9\n", "docs/a.md": "https://example.invalid\n"}),
    ("PB011", {TEST: 'import pytest\n@pytest.mark.xfail(reason="upstream bug 1234 of Kafka")\ndef test_a(): ...\n'}),
    ("PB011", {TEST: "import asyncio\nasync def test_a():\n    await asyncio.sleep(0)\n"}),
    ("PB011", {"libs/chassis/src/chassis/testing/wait.py": "import asyncio\nx = asyncio.sleep(1)\n"}),
]


@pytest.mark.parametrize(("rule", "files", "path", "line"), VIOLATIONS)
def test_a_violation_is_found_at_its_line(rule: str, files: dict[str, str], path: str, line: int) -> None:
    assert found(files) == [(path, line, rule)]


@pytest.mark.parametrize(("rule", "files"), CLEAN)
def test_clean_code_passes(rule: str, files: dict[str, str]) -> None:
    assert list(RULES[rule](project(files))) == []


# A lock file has no place for a comment, and a file that cannot be parsed has none that counts.
ESCAPABLE = [case for case in VIOLATIONS if case[0] != "PB000" and case[2] != "uv.lock"]


@pytest.mark.parametrize(("rule", "files", "path", "line"), ESCAPABLE)
def test_an_escape_with_a_reason_excuses_its_line(rule: str, files: dict[str, str], path: str, line: int) -> None:
    text = files[path].splitlines() or [""]
    text[line - 1] += f"  # lint-skip: {rule} the vendor leaves no other way"
    assert found({**files, path: "\n".join(text) + "\n"}) == []


def test_every_rule_has_a_violating_and_a_clean_sample() -> None:
    assert {case[0] for case in VIOLATIONS} - {"PB000"} == set(RULES)
    assert {rule for rule, _ in CLEAN} == set(RULES)


def test_an_escape_above_a_line_covers_it() -> None:
    assert found({SERVICE: "# lint-skip: PB002 the consumer's offset, not a database\nx.commit()\n"}) == []


def test_an_escape_without_reason_is_a_finding_and_excuses_nothing() -> None:
    assert found({SERVICE: "x.commit()  # lint-skip: PB002\n"}) == [(SERVICE, 1, "PB000"), (SERVICE, 1, "PB002")]


def test_an_escape_that_hides_nothing_is_a_finding() -> None:
    assert found({SERVICE: "x = 1  # lint-skip: PB002 there was a commit here once\n"}) == [(SERVICE, 1, "PB000")]


def test_an_escape_excuses_its_own_rule_only() -> None:
    text = "import time\nx.commit(time.time())  # lint-skip: PB002 the consumer's offset\n"
    assert found({SERVICE: text}) == [(SERVICE, 2, "PB003")]


def test_a_string_that_looks_like_an_escape_is_none() -> None:
    assert found({SERVICE: 'x.commit("# lint-skip: PB002 because I say so")\n'}) == [(SERVICE, 1, "PB002")]


def test_the_project_is_what_git_tracks_or_would_add(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    for name, content in {".gitignore": b"skipped.py\n", "a.py": b"x = 1\n", "skipped.py": b"", "b.bin": b"\0"}.items():
        (tmp_path / name).write_bytes(content)
    assert load(tmp_path).paths == {".gitignore", "a.py"}


def test_a_finding_prints_as_path_line_rule_message() -> None:
    assert str(Finding("a/b.py", 3, "PB002", "commits")) == "a/b.py:3: PB002 commits"


def test_paths_narrow_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "LICENSE")]) == 0
    assert capsys.readouterr().out == ""


def test_the_command_exits_with_one_on_findings_below_the_given_path() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.linters", "tools/linters", "libs/contracts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
