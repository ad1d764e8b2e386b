"""Where values stand: places, batches with their way, and bodies of every format."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Invalid
from providers.bodies import MAX_DEPTH, multipart_fields, xml_document
from providers.sdk import InboundRequest
from providers.sources import Reading, every, reader

URL = "https://hooks.example.com/hooks/ep?a=registered"
BATCH = {
    "object": "page",
    "merchants": {"m/1": [{"id": 1}, {"id": 2}], "m2": [{"id": 3}]},
    "entry": [{"id": "e1", "changes": [{"f": "x"}]}, {"id": "e2", "messaging": [{"f": "y"}]}],
}


def reading(body: Any, *formats: str, content_type: str = "application/json", **over: Any) -> Reading:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = InboundRequest("POST", URL, {"content-type": [content_type], **over.pop("headers", {})}, data, **over)
    return Reading(request, formats or ("json",), "payload")


def test_items_know_their_way_and_their_path() -> None:
    items = reading(BATCH).items(("/merchants/*",))
    keys = [(reader("key:1", {})(one), reader("body:/id", {})(one), one.path) for one in items]
    assert keys == [
        ("m/1", "1", "/merchants/m~11/0"),
        ("m/1", "2", "/merchants/m~11/1"),
        ("m2", "3", "/merchants/m2/0"),
    ]
    assert [reader("root:/object", {})(one) for one in items] == ["page"] * 3


def test_several_pointers_are_read_in_order_each_with_its_own_ancestors() -> None:
    items = reading(BATCH).items(("/entry/*/changes", "/entry/*/messaging"))
    assert [(reader("root:/entry/*/id", {})(one), one.data) for one in items] == [
        ("e1", b'{"f":"x"}'),
        ("e2", b'{"f":"y"}'),
    ]
    with pytest.raises(Invalid, match="no array"):
        reading(BATCH).items(("/entry/*/nothing",))


def test_a_pointer_may_hold_a_star_for_every_element() -> None:
    tokens = every("body:/value/*/state", {})
    assert tokens(reading({"value": [{"state": "a"}, {}, {"state": "b"}]})) == ["a", None, "b"]
    assert tokens(reading({"value": []})) == []
    assert every("header:X-A", {})(reading({}, headers={"x-a": ["1"]})) == ["1"]


def test_parameters_are_read_from_what_was_received_and_not_from_the_registered_address() -> None:
    read = reader("query:a", {})
    assert read(reading({})) is None
    assert read(reading({}, query_string="a=sent")) == "sent"
    assert read(reading({}, query_string="a=1&a=2")) is None
    assert read(reading({}, query_string="&".join(f"x{n}=1" for n in range(500)) + "&a=1")) is None


def test_alternatives_and_options() -> None:
    read = reader("body:/{name}|form:b|option:last", {"name": "first", "last": "z"})
    assert read(reading({"first": 7})) == "7"
    assert read(reading(b"b=2", "json", "form", content_type="application/x-www-form-urlencoded")) == "2"
    assert read(reading({"first": True})) == "z"


def test_a_form_may_hold_json_and_counts_its_last_value() -> None:
    form = "application/x-www-form-urlencoded"
    one = reading(b"payload=%7B%22id%22%3A%22x%22%7D", "json", "form", content_type=form)
    assert (reader("body:/id", {})(one), one.data) == ("x", b'{"id":"x"}')
    assert reader("form:a", {})(reading(b"a=1&a=2", "form", content_type=form)) == "2"
    with pytest.raises(Invalid):
        _ = reading(b"payload=%7B", "form", content_type=form).item


def test_what_is_not_json_is_left_alone_where_the_manifest_says_so() -> None:
    assert reading(b"\xff", "json", "opaque", content_type="image/png").item is None
    assert reading(b'{"a":1}', "json", "opaque", content_type="application/cloudevents+json").item == {"a": 1}
    with pytest.raises(Invalid):
        _ = reading(b"\xff", "json", "opaque").item


def multipart(*parts: str) -> bytes:
    return "".join(f"--b\r\n{part}\r\n" for part in parts).encode() + b"--b--\r\n"


def test_multipart_fields_without_files() -> None:
    body = multipart(
        'Content-Disposition: form-data; name="token"\r\n\r\nold',
        'Content-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nsecret',
        'Content-Disposition: form-data; name="token"\r\n\r\nnew \u00e9',
    )
    one = reading(body, "multipart", content_type="multipart/form-data; boundary=b")
    assert dict(one.form) == {"token": "new \u00e9"}
    assert one.item is None


def test_xml_is_read_by_local_names_and_never_expanded() -> None:
    body = b'<s:E xmlns:s="urn:s"><s:B><n:I xmlns:n="urn:n">1</n:I><n:I xmlns:n="urn:n">2</n:I></s:B></s:E>'
    assert xml_document(body) == {"E": {"B": {"I": ["1", "2"]}}}
    one = reading(body, "xml", content_type="text/xml; charset=utf-8")
    assert [item.path for item in one.items(("/E/B/I",))] == ["/E/B/I/0", "/E/B/I/1"]
    single = reading(b"<E><I><Id>7</Id></I></E>", "xml", content_type="text/xml")
    assert [reader("body:/Id", {})(item) for item in single.items(("/E/I",), lists_only=False)] == ["7"]


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE a [<!ENTITY x "xxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]><a>&y;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1/">]><a>&x;</a>',
        b"<a>" * (MAX_DEPTH + 2),
        b"<a>&unknown;</a>",
        b"",
        b"{}",
        b"<a>" + b"<b/>" * 30_000 + b"</a>",
    ],
)
def test_hostile_xml_is_named_invalid(body: bytes) -> None:
    with pytest.raises(Invalid) as error:
        xml_document(body)
    assert error.value.code == "undecodable_body"


@given(body=st.binary(max_size=300), content_type=st.text(max_size=60))
def test_any_body_of_any_type_is_read_or_named_invalid(body: bytes, content_type: str) -> None:
    for read in (
        lambda: multipart_fields(body, f"multipart/form-data; boundary={content_type}", 100),
        lambda: multipart_fields(b"--b\r\n" + body + b"\r\n--b--", "multipart/form-data; boundary=b", 100),
        lambda: xml_document(body),
        lambda: xml_document(b"<a>" + body + b"</a>"),
    ):
        try:
            read()
        except Invalid as error:
            code = error.code
        else:
            code = "undecodable_body"
        assert code == "undecodable_body"
