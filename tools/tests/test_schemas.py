from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from contracts.catalogue import CATALOGUE
from contracts.events.base import Event
from contracts.topics import TOPICS
from tools import schemas


class OrderPlaced(Event):
    TYPE: ClassVar[str] = "order.placed.v1"

    zone: str
    amount: int


class OrderPlacedWithTax(Event):
    TYPE: ClassVar[str] = "order.placed.v1"

    zone: str
    amount: int
    tax: int


PATH = schemas.SCHEMAS / "order.placed.v1.json"


def write(root: Path, text: str) -> None:
    (root / PATH).parent.mkdir(parents=True, exist_ok=True)
    (root / PATH).write_text(text)


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_a_golden_is_stable_sorted_json_with_the_type_as_id() -> None:
    text = schemas.golden(OrderPlaced)
    document = json.loads(text)
    assert document["$id"] == "order.placed.v1"
    assert list(document) == sorted(document)
    assert list(document["properties"]) == ["amount", "zone"]
    assert text.endswith("}\n")
    assert text == schemas.golden(OrderPlaced)


def test_goldens_that_are_missing_stale_or_orphaned_are_named(tmp_path: Path) -> None:
    expected = {PATH: schemas.golden(OrderPlaced)}
    assert list(schemas.stale(tmp_path, expected, [])) == [f"{PATH}: missing; run `make schemas`"]
    write(tmp_path, "{}\n")
    assert list(schemas.stale(tmp_path, expected, [PATH])) == [f"{PATH}: stale; run `make schemas`"]
    write(tmp_path, expected[PATH])
    orphan = schemas.SCHEMAS / "gone.v1.json"
    assert list(schemas.stale(tmp_path, expected, [PATH, orphan])) == [
        f"{orphan}: belongs to no model; run `make schemas`"
    ]


def test_a_break_is_found_against_the_working_tree_when_nothing_is_committed(tmp_path: Path) -> None:
    write(tmp_path, schemas.golden(OrderPlaced))
    found = list(schemas.incompatible(tmp_path, {PATH: schemas.golden(OrderPlacedWithTax)}, "HEAD"))
    assert len(found) == 1
    assert "$.tax: required-added" in found[0]


def test_a_break_is_found_against_the_committed_golden_even_after_the_new_one_was_written(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    write(tmp_path, schemas.golden(OrderPlaced))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "golden")
    after = {PATH: schemas.golden(OrderPlacedWithTax)}
    write(tmp_path, after[PATH])
    assert len(list(schemas.incompatible(tmp_path, after, "HEAD"))) == 1
    git(tmp_path, "commit", "--quiet", "-am", "broken")
    assert list(schemas.incompatible(tmp_path, after, "HEAD")) == []
    assert len(list(schemas.incompatible(tmp_path, after, "HEAD~1"))) == 1


def test_a_new_message_breaks_nothing(tmp_path: Path) -> None:
    assert list(schemas.incompatible(tmp_path, {PATH: schemas.golden(OrderPlaced)}, "HEAD")) == []


def test_types_without_model_and_models_without_topic_are_named() -> None:
    assert list(schemas.undeclared(["a.b.v1", "delivery.accepted.v1"], ["a.b.v1"])) == []
    assert list(schemas.undeclared(["a.b.v1", "c.d.v1"], ["a.b.v1", "e.f.v1"])) == [
        "contracts.topics: c.d.v1 has no model in contracts.catalogue",
        "contracts.catalogue: e.f.v1 is on no topic of contracts.topics",
    ]


def test_the_asyncapi_page_comes_from_the_service_and_one_without_it_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package, app, bare = ModuleType("fake_service"), ModuleType("fake_service.app"), ModuleType("bare_service.app")
    app.__dict__["asyncapi"] = lambda: '{"b": 1, "asyncapi": "3.0.0"}'
    for module in (package, app, ModuleType("bare_service"), bare):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    pages, problems = schemas.asyncapi_goldens(["fake_service", "bare_service", "absent_service"])
    assert pages == {Path("services/fake-service/asyncapi.json"): '{\n  "asyncapi": "3.0.0",\n  "b": 1\n}\n'}
    assert [problem.split(":")[0] for problem in problems] == [
        "services/bare-service/asyncapi.json",
        "services/absent-service/asyncapi.json",
    ]


def test_the_real_catalogue_and_topics_agree() -> None:
    carried = [name for topic in TOPICS for name in topic.types]
    assert list(schemas.undeclared(carried, CATALOGUE)) == []


def test_the_real_goldens_are_current() -> None:
    existing = [path.relative_to(schemas.ROOT) for path in (schemas.ROOT / schemas.SCHEMAS).glob("*.json")]
    assert list(schemas.stale(schemas.ROOT, schemas.goldens(), existing)) == []
