"""What people may see of a body."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from webhook_gateway.privacy import HIDDEN, NOT_SHOWN, own_bytes, readable, redact


def stored(body: bytes, **facts: Any) -> dict[str, Any]:
    return {"body": body, "item": 0, "items": 0, "encoding": "", "place": ""} | facts


@pytest.mark.parametrize(
    ("pointer", "document", "shown"),
    [
        ("/a", {"a": 1, "b": 2}, {"a": HIDDEN, "b": 2}),
        ("/a/b", {"a": {"b": {"deep": 1}}}, {"a": {"b": HIDDEN}}),
        ("/a/0", {"a": [1, 2]}, {"a": [HIDDEN, 2]}),
        ("/a/*/c", {"a": [{"c": 1}, {"d": 2}]}, {"a": [{"c": HIDDEN}, {"d": 2}]}),
        ("/*/c", {"a": {"c": 1}, "b": {"c": 2}}, {"a": {"c": HIDDEN}, "b": {"c": HIDDEN}}),
        ("/a~1b/m~0n", {"a/b": {"m~n": 1}}, {"a/b": {"m~n": HIDDEN}}),
        ("", {"a": 1}, HIDDEN),
        ("/x/y", {"a": 1}, {"a": 1}),
        ("/a/7", {"a": [1]}, {"a": [1]}),
        ("/a/b", {"a": "text"}, {"a": "text"}),
    ],
)
def test_pointers_hide_what_they_name(pointer: str, document: Any, shown: Any) -> None:
    assert redact(document, [pointer]) == shown


def test_a_body_is_shown_as_what_it_is() -> None:
    assert readable(b'{"a": 1}', "", ()) == {"a": 1}
    assert readable(b"a=1", "text/plain", ()) == "a=1"
    assert readable(b"\xff", "", ()) == "\ufffd"
    assert readable(b"a=1&a=2&b=x", "application/x-www-form-urlencoded; charset=utf-8", ["/b"]) == {
        "a": "2",
        "b": HIDDEN,
    }
    assert readable(b"<a/>", "text/xml", ["/a"]) == NOT_SHOWN


def test_the_events_own_bytes_are_found() -> None:
    assert own_bytes(stored(b"x")) == b"x"
    assert own_bytes(stored(gzip.compress(b"x"), encoding="gzip")) == b"x"
    assert own_bytes(stored(b"x", item=3, encoding="gzip")) == b"x"
    assert own_bytes(stored(b'[{"a":1},2]', items=2)) == b'{"a":1}'
    assert own_bytes(stored(b'{"events":[{"a":1}]}', items=1, place="/events/0")) == b'{"a":1}'
    assert own_bytes(stored(b"no json", items=1)) is None
    assert own_bytes(stored(b"{}", items=1, place="/events/0")) is None
