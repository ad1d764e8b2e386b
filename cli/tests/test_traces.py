from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from patchbay.traces import read_spans, roots, services_of, tree

TRACE = "fc04004b64ca43a59b10bc32341ea186"
OTHER = "0c04004b64ca43a59b10bc32341ea187"


def span(span_id: str, parent: str | None, service: str, start_ms: int, **more: Any) -> str:
    start = start_ms * 1_000_000
    record: dict[str, Any] = {
        "trace_id": TRACE,
        "span_id": span_id,
        "parent_id": parent,
        "service": service,
        "name": f"work {span_id}",
        "start_ns": start,
        "end_ns": start + 2_500_000,
        "attributes": {},
        "status": "UNSET",
    }
    return json.dumps(record | more) + "\n"


def files(folder: Path) -> Path:
    (folder / "b.jsonl").write_text(
        span("b1", "a1", "worker", 20) + span("b2", "b1", "worker", 30) + '{"trace_id": "' + TRACE
    )
    (folder / "a.jsonl").write_text(
        span("a1", None, "gateway", 10)
        + span("a2", "a1", "gateway", 15)
        + span("x", None, "gateway", 1, trace_id=OTHER)
    )
    return folder


def test_spans_of_all_files_become_one_tree(tmp_path: Path) -> None:
    spans = read_spans(files(tmp_path), TRACE)
    assert [one.span_id for one in spans] == ["a1", "a2", "b1", "b2"]
    (root,) = roots(spans)
    assert [one.span_id for one in root.children] == ["a2", "b1"]
    assert [one.span_id for one in root.children[1].children] == ["b2"]
    assert services_of(spans) == ["gateway", "worker"]
    assert root.duration_ms == 2.5


def test_span_whose_parent_is_elsewhere_is_a_root(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(span("a1", "not-ours", "gateway", 10))
    assert [one.span_id for one in roots(read_spans(tmp_path, TRACE))] == ["a1"]


def test_tree_says_who_when_and_how_long(tmp_path: Path) -> None:
    console = Console(record=True, width=100)
    console.print(tree(TRACE, read_spans(files(tmp_path), TRACE)))
    assert "worker: work b2  2.5 ms  (at +20.0 ms)" in console.export_text()


def test_unknown_trace_and_folder_are_empty(tmp_path: Path) -> None:
    assert read_spans(files(tmp_path), "0" * 32) == []
    assert read_spans(tmp_path / "none", TRACE) == []
