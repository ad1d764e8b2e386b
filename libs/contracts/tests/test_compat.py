from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jsoncompat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from contracts.compat import breaking_changes

# Few names, so that two independently drawn models often share a field.
NAMES = st.sampled_from(["a", "b", "c"])
WORDS = ["red", "green", "blue", "grey"]
BOUND = st.none() | st.integers(0, 4)


@dataclass(frozen=True)
class Shape:
    """A pydantic type to build a schema from, and how to draw a JSON value of it."""

    annotation: Any
    values: st.SearchStrategy[Any]
    default: Any = ...


def integers(least: int | None, most: int | None) -> Shape:
    most = most if least is None or most is None else max(least, most)
    low, high = (-9 if least is None else least), (9 if most is None else most)
    return Shape(Annotated[int, Field(ge=least, le=most)], st.integers(low, high))


def positive(least: int, number: type) -> Shape:
    return Shape(Annotated[number, Field(gt=least)], st.integers(least + 1, least + 9))


def strings(least: int | None, most: int | None) -> Shape:
    most = most if least is None or most is None else max(least, most)
    values = st.text("ab", min_size=least or 0, max_size=9 if most is None else most)
    return Shape(Annotated[str, Field(min_length=least, max_length=most)], values)


def literals(words: list[str]) -> Shape:
    return Shape(Literal[tuple(words)], st.sampled_from(words))


def arrays(item: Shape, least: int | None, most: int | None) -> Shape:
    most = most if least is None or most is None else max(least, most)
    annotation = Annotated[list[item.annotation], Field(min_length=least, max_length=most)]  # type: ignore[name-defined]
    return Shape(
        annotation, st.lists(item.values, min_size=least or 0, max_size=(least or 0) + 3 if most is None else most)
    )


def pairs(one: Shape, other: Shape) -> Shape:
    return Shape(tuple[one.annotation, other.annotation], st.tuples(one.values, other.values).map(list))  # type: ignore[name-defined]


def maps(item: Shape) -> Shape:
    return Shape(dict[str, item.annotation], st.dictionaries(NAMES, item.values, max_size=3))  # type: ignore[name-defined]


def unions(one: Shape, other: Shape) -> Shape:
    return Shape(one.annotation | other.annotation, one.values | other.values)


def nullable(item: Shape) -> Shape:
    return Shape(item.annotation | None, st.none() | item.values)


def optional(item: Shape) -> Shape:
    return replace(item, annotation=item.annotation | None, default=None)


def records(fields: dict[str, Shape], extra: Literal["ignore", "forbid"] = "ignore") -> Shape:
    model = create_model(
        "Record",
        __config__=ConfigDict(extra=extra),
        **{name: (shape.annotation, shape.default) for name, shape in fields.items()},  # type: ignore[call-overload]
    )
    required = {name: shape.values for name, shape in fields.items() if shape.default is ...}
    rest = {name: shape.values for name, shape in fields.items() if shape.default is not ...}
    return Shape(model, st.fixed_dictionaries(required, optional=rest))


def container_shapes(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
    return st.one_of(
        st.builds(arrays, inner, BOUND, BOUND),
        st.builds(pairs, inner, inner),
        st.builds(maps, inner),
        st.builds(unions, inner, inner),
        st.builds(nullable, inner),
        st.builds(records, st.dictionaries(NAMES, inner | inner.map(optional), max_size=3)),
    )


SCALARS = st.one_of(
    st.builds(integers, BOUND, BOUND),
    st.builds(positive, st.integers(0, 3), st.sampled_from([int, float])),
    st.builds(strings, BOUND, BOUND),
    st.builds(literals, st.lists(st.sampled_from(WORDS), min_size=1, unique=True)),
    st.just(Shape(bool, st.booleans())),
    st.just(Shape(Any, st.none() | st.booleans() | st.sampled_from(WORDS) | st.lists(st.integers(), max_size=2))),
)
SHAPES = st.recursive(SCALARS, container_shapes, max_leaves=5)
MODELS = st.builds(records, st.dictionaries(NAMES, SHAPES | SHAPES.map(optional), max_size=3))


def schema_of(annotation: Any) -> dict[str, Any]:
    return TypeAdapter(annotation).json_schema(mode="serialization")


def rules(old: Any, new: Any) -> set[tuple[str, str]]:
    return {(finding.path, finding.rule) for finding in breaking_changes(schema_of(old), schema_of(new))}


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), old=SHAPES | MODELS, new=SHAPES | MODELS)
def test_a_reader_called_compatible_reads_every_old_value(data: st.DataObject, old: Shape, new: Shape) -> None:
    if breaking_changes(schema_of(old.annotation), schema_of(new.annotation)):
        return
    value = data.draw(old.values)
    TypeAdapter(new.annotation).validate_json(json.dumps(value))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=SHAPES | MODELS)
def test_a_schema_is_compatible_with_itself(shape: Shape) -> None:
    assert breaking_changes(schema_of(shape.annotation), schema_of(shape.annotation)) == []


# jsoncompat counts every added field of an open model as a break (stack.md §11), so the models are closed; a field may
# differ in whether it exists, is required and in its values.
FIELDS = st.sampled_from(
    [
        Shape(str, st.nothing()),
        Shape(int, st.nothing()),
        Shape(float, st.nothing()),
        Shape(bool, st.nothing()),
        literals(["red"]),
        literals(["red", "green"]),
        integers(0, None),
        integers(2, None),
        strings(None, 3),
        arrays(Shape(int, st.nothing()), None, None),
        arrays(Shape(str, st.nothing()), None, None),
        maps(Shape(int, st.nothing())),
        nullable(Shape(int, st.nothing())),
    ],
)
CLOSED = st.builds(records, st.dictionaries(NAMES, FIELDS | FIELDS.map(optional), max_size=2), st.just("forbid"))


@settings(max_examples=300, deadline=None)
@given(old=CLOSED, new=CLOSED)
def test_verdicts_on_closed_models_are_those_of_jsoncompat(old: Shape, new: Shape) -> None:
    before, after = schema_of(old.annotation), schema_of(new.annotation)
    # The forward rule is ours: a reader that no longer requires a field still reads old values.
    ours = not [f for f in breaking_changes(before, after) if f.rule != "required-removed"]
    assert ours == jsoncompat.check_compat(json.dumps(before), json.dumps(after), "deserializer")


class Inner(BaseModel):
    size: int


class Before(BaseModel):
    kept: str
    inner: Inner
    tags: list[Literal["red", "green"]] = []
    note: str | None = None
    limit: int = Field(default=1, ge=0)


def changed(**fields: tuple[Any, Any]) -> type[BaseModel]:
    """Return `Before` with some fields replaced; a field set to `(None, None)` is dropped."""
    kept = {name: (info.annotation, info) for name, info in Before.model_fields.items()}
    wanted = {name: field for name, field in (kept | fields).items() if field != (None, None)}
    return create_model("Before", **wanted)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (changed(fresh=(str, ...)), {("$.fresh", "required-added")}),
        (changed(note=(str | None, ...)), {("$.note", "required-added")}),
        (changed(kept=(None, None)), {("$.kept", "required-removed")}),
        (changed(kept=(str, "")), {("$.kept", "required-removed")}),
        (changed(kept=(int, ...)), {("$.kept", "type")}),
        (changed(note=(str, "")), {("$.note", "type")}),
        (changed(tags=(list[Literal["red"]], [])), {("$.tags[]", "enum")}),
        (changed(tags=(list[str], Field(default=[], max_length=3))), {("$.tags", "bound")}),
        (changed(limit=(int, Field(default=1, gt=0))), {("$.limit", "bound")}),
        (changed(kept=(str, Field(pattern="^a"))), {("$.kept", "keyword")}),
        (changed(inner=(create_model("Inner", size=(str, ...)), ...)), {("$.inner.size", "type")}),
        (
            changed(inner=(create_model("Inner", size=(int, ...), colour=(str, ...)), ...)),
            {("$.inner.colour", "required-added")},
        ),
    ],
)
def test_a_breaking_change_is_found_at_its_place(after: type[BaseModel], expected: set[tuple[str, str]]) -> None:
    assert rules(Before, after) == expected


@pytest.mark.parametrize(
    "after",
    [
        changed(fresh=(str, "")),
        changed(fresh=(int | None, None)),
        changed(note=(None, None)),
        changed(note=(str | int | None, None)),
        changed(kept=(str | None, ...)),
        changed(tags=(list[Literal["red", "green", "blue"]], [])),
        changed(tags=(list[str], [])),
        changed(limit=(float, Field(default=1, ge=-1))),
        changed(inner=(create_model("Renamed", size=(int, ...), colour=(str, "")), ...)),
        changed(kept=(Any, ...)),
    ],
)
def test_a_harmless_change_is_no_finding(after: type[BaseModel]) -> None:
    assert rules(Before, after) == set()


class Node(BaseModel):
    value: int
    children: list[Node] = []


def test_recursive_models_are_compared_once_per_pair() -> None:
    old = schema_of(Node)
    new = json.loads(json.dumps(old).replace('"integer"', '"string"'))
    assert breaking_changes(old, old) == []
    assert [(f.path, f.rule) for f in breaking_changes(old, new)] == [("$.value", "type")]


def _union(*members: type) -> dict[str, Any]:
    tagged: list[Any] = []
    for member in members:
        tag: Any = Literal[member.__name__]
        tagged.append(create_model(member.__name__, kind=(tag, ...), at=(member, ...)))
    annotation: Any = Annotated[tagged[0] | tagged[1], Field(discriminator="kind")]
    return schema_of(annotation)


def test_members_of_a_tagged_union_are_compared_by_tag() -> None:
    old = _union(int, str)
    assert breaking_changes(old, old) == []
    assert breaking_changes(old, _union(int, bytes)) != []


@pytest.mark.parametrize(
    "keyword",
    [{"not": {"const": 1}}, {"multipleOf": 2}, {"allOf": [{"type": "integer"}]}, {"if": {}}],
)
def test_a_keyword_that_the_checker_does_not_know_is_a_finding(keyword: Mapping[str, Any]) -> None:
    assert [f.rule for f in breaking_changes({"type": "integer"}, {"type": "integer", **keyword})] == ["keyword"]


def test_an_unknown_keyword_with_a_reference_is_never_called_equal() -> None:
    def schema(kind: str) -> dict[str, Any]:
        return {"type": "object", "patternProperties": {"^a": {"$ref": "#/$defs/T"}}, "$defs": {"T": {"type": kind}}}

    assert [f.rule for f in breaking_changes(schema("string"), schema("integer"))] == ["keyword"]


@pytest.mark.parametrize("edit", [lambda s: s.pop("required"), lambda s: s.update(title="T", description="words")])
def test_words_and_loosening_are_told_apart(edit: Callable[[dict[str, Any]], Any]) -> None:
    old, new = schema_of(Inner), schema_of(Inner)
    edit(new)
    assert bool(breaking_changes(old, new)) == ("required" not in new)
