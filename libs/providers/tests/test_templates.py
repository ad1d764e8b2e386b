from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.errors import Invalid
from providers.templates import ABSENT, Scope, names_in, render

NINE = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def filled(template: Any, maps: dict[str, dict[str, Any]] | None = None, *, path: bool = False, **values: Any) -> Any:
    return render(template, Scope(values, maps or {}), path=path)


def test_another_name_stands_in_for_an_absent_one() -> None:
    template = "{sender|or:option.sender}"
    assert filled(template, sender="a@example.com", option={"sender": "b@example.com"}) == "a@example.com"
    assert filled(template, sender=None, option={"sender": "b@example.com"}) == "b@example.com"
    with pytest.raises(Invalid, match="sender"):
        filled(template, option={"sender": ""})
    assert filled("{sender?|or:option.sender}", option={}) is ABSENT
    assert names_in(template) == {"sender", "option.sender"}


def test_filters_behind_an_alternative_change_it_too() -> None:
    assert filled("/{project|or:option.project|raw}/x", path=True, option={"project": "a b/c"}) == "/a%20b/c/x"


def test_table_may_have_a_form_for_every_other_value() -> None:
    maps = {"calendar": {"primary": "calendar", "*": "calendars/*"}, "closed": {"a": "b"}}
    assert filled("{calendar|map:calendar}", maps, calendar="primary") == "calendar"
    assert filled("/{calendar|map:calendar|raw}/events", maps, path=True, calendar="A=") == "/calendars/A%3D/events"
    with pytest.raises(Invalid):
        filled("{word|map:closed}", maps, word="c")


@pytest.mark.parametrize("value", ["..", "a/../b", "./a", "."])
def test_no_value_leads_out_of_a_path(value: str) -> None:
    for template in ("/x/{value}", "/x/{value|raw}"):
        with pytest.raises(Invalid, match="path"):
            filled(template, path=True, value=value)


def test_raw_keeps_slashes_and_nothing_else() -> None:
    assert filled("/x/{value|raw}", path=True, value="a/b?c#d") == "/x/a/b%3Fc%23d"
    assert filled("/x/{value}", path=True, value="a/b") == "/x/a%2Fb"


def test_text_is_cut_into_pieces_without_loss() -> None:
    template = {"each": "text", "pieces": 4, "item": {"content": "{item}"}}
    found = filled(template, text="abcdefghij")
    assert [one["content"] for one in found] == ["abcd", "efgh", "ij"]


def test_uuid_of_version_4_is_stable_and_of_its_key() -> None:
    one, again, other = (filled("{effect_key|uuid4}", effect_key=key) for key in ("a", "a", "b"))
    assert one == again != other
    assert uuid.UUID(one).version == 4


def test_instant_alone_is_a_text() -> None:
    assert filled({"start": "{start}"}, start=NINE) == {"start": "2026-11-23T09:00:00Z"}


def test_local_time_in_a_zone_of_its_own() -> None:
    assert filled("{start|local}", start=NINE, zone="Europe/Vienna") == "2026-11-23T10:00:00"
    assert filled("{start|local:UTC}", start=NINE, zone="Europe/Vienna") == "2026-11-23T09:00:00"


def test_text_of_icalendar_cannot_add_a_line() -> None:
    text = "Room 4, first; \\ floor\r\nSTATUS:CANCELLED\x00"
    assert filled("{text|ical}", text=text) == "Room 4\\, first\\; \\\\ floor\\nSTATUS:CANCELLED"


def test_quotation_marks_stay_in_a_text_of_xml() -> None:
    assert filled("{text|xml:text}", text='<a> & "b"') == '&lt;a&gt; &amp; "b"'
    assert filled("{text|xml}", text='"b"') == "&quot;b&quot;"


def test_object_whose_members_are_all_absent_is_left_out() -> None:
    template = {"subject": "x", "requester": {"name": "{who?}", "email": "{who?}"}}
    assert filled(template) == {"subject": "x"}
    assert filled(template, who="m")["requester"] == {"name": "m", "email": "m"}
