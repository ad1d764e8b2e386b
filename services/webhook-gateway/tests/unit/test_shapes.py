"""What bodies look like, and when that changes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from webhook_gateway.shapes import LEARN_BODIES, MAX_PATHS, WINDOW_BODIES, Path, ShapeModel, paths_of

BASE: dict[str, Any] = {"id": "x", "amount": 5, "customer": {"name": "n"}, "lines": [{"sku": "s"}]}


def learnt(**more: Any) -> ShapeModel:
    shape = ShapeModel()
    assert not shape.take([BASE | more] * LEARN_BODIES)
    assert shape.known
    return shape


def test_paths_name_fields_and_types() -> None:
    assert paths_of({"a": {"b": [1, "x", None]}, "c": True, "d": 1.5}) == {
        "$": {"object"},
        "$.a": {"object"},
        "$.a.b": {"array"},
        "$.a.b[]": {"number", "string", "null"},
        "$.c": {"boolean"},
        "$.d": {"number"},
    }


def test_keys_that_are_ids_are_one_path() -> None:
    body = {"by": {"pi_3NabcDEF123456": 1, "12345": 2, "f81d4fae-7dec-11d0-a765-00a0c91e6bf6": 3}}
    assert set(paths_of(body)) == {"$", "$.by", "$.by.*"}
    assert set(paths_of({"by": {f"name{i}": i for i in range(61)}})) == {"$", "$.by", "$.by.*"}


def test_the_same_bodies_never_drift_and_optional_fields_are_no_drift() -> None:
    shape = ShapeModel()
    for i in range(LEARN_BODIES * 3):
        body = BASE | ({"note": "x"} if i % 7 == 0 else {}) | ({"amount": None} if i % 5 == 0 else {})
        assert not shape.take([body])


def test_a_new_field_is_told_once_from_its_second_sighting() -> None:
    shape = learnt()
    assert not shape.take([BASE | {"currency": "EUR"}])
    drift = shape.take([BASE | {"currency": "EUR"}])
    assert (drift.new, drift.missing, drift.retyped) == (["$.currency"], [], [])
    assert not shape.take([BASE | {"currency": "EUR"}] * 5)


def test_a_field_that_was_always_there_is_missing_after_a_window() -> None:
    shape, without = learnt(), {name: value for name, value in BASE.items() if name != "customer"}
    assert not shape.take([without] * (WINDOW_BODIES - 1))
    drift = shape.take([without])
    # Not its children as well: they are missing because it is.
    assert (drift.new, drift.missing, drift.retyped) == ([], ["$.customer"], [])
    assert not shape.take([without] * WINDOW_BODIES)


def test_a_field_that_comes_and_goes_is_not_missing() -> None:
    shape, without = learnt(), {name: value for name, value in BASE.items() if name != "amount"}
    for _ in range(5):
        assert not shape.take([without] * (WINDOW_BODIES - 1))
        assert not shape.take([BASE])


def test_a_changed_type_is_told_and_null_is_none() -> None:
    shape = learnt()
    assert not shape.take([BASE | {"amount": None}] * 5)
    drift = shape.take([BASE | {"amount": "5"}] * 2)
    assert (drift.new, drift.missing, drift.retyped) == ([], [], ["$.amount"])
    # Whole and fractional numbers are one type to JSON.
    assert not shape.take([BASE | {"amount": 5.5}] * 5)


def test_a_field_that_was_only_ever_null_gets_its_type_silently() -> None:
    shape = learnt(ref=None)
    assert not shape.take([BASE | {"ref": "x"}] * 5)


def test_a_shape_is_bounded() -> None:
    shape = ShapeModel()
    shape.take([{f"object{n}": {f"field{m}": m for m in range(50)} for n in range(30)}])
    assert len(shape.paths) == MAX_PATHS
    assert shape.full


def test_a_path_survives_the_database() -> None:
    path = Path({"string", "null"}, always=True, fresh=True, missing=False, lacking=3, pending={"number": 1})
    assert Path.of_json(path.to_json()) == path


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.lists(JSON, min_size=1, max_size=5))
def test_any_json_is_taken(documents: list[Any]) -> None:
    shape = ShapeModel()
    shape.take(documents * 30)
    assert len(shape.paths) <= MAX_PATHS
