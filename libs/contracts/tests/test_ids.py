from __future__ import annotations

import time
import uuid

from hypothesis import given
from hypothesis import strategies as st

from contracts.ids import effect_key, entity_id, entity_key, uuid7, uuid7_text

# Few characters, so that parts which join to the same text are drawn often.
PART = st.text("a:1", max_size=3)


def test_uuid7_has_the_version_and_variant_of_rfc_9562() -> None:
    made = [uuid7() for _ in range(200)]
    assert {value.version for value in made} == {7}
    assert {value.variant for value in made} == {uuid.RFC_4122}
    assert len(set(made)) == 200


def test_uuid7_starts_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    stamp = uuid7().int >> 80
    assert before <= stamp <= time.time_ns() // 1_000_000


def test_uuid7_of_a_later_millisecond_sorts_later() -> None:
    first = uuid7()
    second = uuid7()
    while second.int >> 80 == first.int >> 80:
        second = uuid7()
    assert first < second
    assert str(first) < str(second)


def test_uuid7_as_text_is_the_same_kind_of_id_in_canonical_form() -> None:
    before = uuid7().int >> 80
    made = [uuid7_text() for _ in range(200)]
    read = [uuid.UUID(text) for text in made]
    assert [str(value) for value in read] == made
    assert {(value.version, value.variant) for value in read} == {(7, uuid.RFC_4122)}
    assert all(before <= value.int >> 80 <= uuid7().int >> 80 for value in read)
    assert len(set(made)) == 200


@given(one=st.tuples(PART, PART, PART, PART), other=st.tuples(PART, PART, PART, PART))
def test_entity_ids_are_equal_exactly_for_equal_parts(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    assert (entity_id(*one) == entity_id(*other)) == (one == other)


@given(one=st.tuples(PART, PART, PART), other=st.tuples(PART, PART, PART))
def test_effect_keys_are_equal_exactly_for_equal_parts(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (effect_key(*one) == effect_key(*other)) == (one == other)


def test_stored_ids_never_change() -> None:
    # Golden: these are in databases and at providers; a change orphans records and repeats effects.
    assert str(entity_id("acme", "payment", "example", "pay_1")) == "4604ea4b-c69c-51b1-8540-0069a7c0222a"
    assert effect_key("0190-saga", "refund", "do") == "4d93d4350d5e484a73b2103761c116fe26e1d73c137c246e5d5aa705793b6b8d"


def test_an_entity_key_is_readable() -> None:
    assert entity_key("acme", "payment", "pay_1") == "acme:payment:pay_1"
