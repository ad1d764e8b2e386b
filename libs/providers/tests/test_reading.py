"""Typed reading of JSON and the fitting of keys."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from contracts.errors import Invalid
from providers.reading import at, first_text, fitting_key, instant, integer, text, unix_time

DOCUMENT = {
    "a": [{"b~/c": 1}],
    "t": "x",
    "e": "",
    "n": None,
    "f": True,
    "at": "2026-07-13T20:30:59.037339943Z",
    "naive": "2026-07-13",
}


def test_pointers_follow_rfc_6901() -> None:
    assert at(DOCUMENT, "") is DOCUMENT
    assert at(DOCUMENT, "/a/0/b~0~1c") == 1
    for absent in ("/a/1", "/a/x", "/t/0", "/zz/y", "/n/x", "/a/-1"):
        assert at(DOCUMENT, absent) is None


def test_values_are_typed_and_errors_name_the_place() -> None:
    assert text(DOCUMENT, "/t") == "x"
    assert first_text(DOCUMENT, ("/n", "/e", "/t")) == "x"
    assert instant(DOCUMENT, "/at") == datetime(2026, 7, 13, 20, 30, 59, 37339, tzinfo=UTC)
    for read, pointer in ((text, "/e"), (integer, "/f"), (instant, "/t"), (instant, "/naive"), (unix_time, "/t")):
        with pytest.raises(Invalid) as error:
            read(DOCUMENT, pointer)
        assert (error.value.code, error.value.field) == ("unreadable_payload", pointer)
    with pytest.raises(Invalid):
        unix_time({"t": 10**20}, "/t")


def test_keys_fit_and_stay_equal() -> None:
    long = "ab" * 32
    assert fitting_key("short", 45) == "short"
    assert fitting_key(long, 45) == fitting_key(long, 45) != fitting_key(long + "x", 45)
    assert len(fitting_key(long, 45)) == 43
    assert len(fitting_key(long, 30)) == 30
    with pytest.raises(ValueError, match="22"):
        fitting_key(long, 21)
