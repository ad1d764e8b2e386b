from __future__ import annotations

import importlib
import json
import pkgutil
import re
from typing import Any

import pytest

from contracts import events
from contracts.catalogue import CATALOGUE
from contracts.events.base import Event

FACT_OR_COMMAND = re.compile(r"[a-z]+(\.[a-z]+)+\.v[1-9]\d*")


def models() -> list[type[Event]]:
    """Return every model that declares a type of its own, from all modules of contracts.events."""
    for module in pkgutil.iter_modules(events.__path__, f"{events.__name__}."):
        importlib.import_module(module.name)
    out: list[type[Event]] = []
    todo: list[type[Event]] = [Event]
    while todo:
        model = todo.pop()
        todo.extend(model.__subclasses__())
        if "TYPE" in vars(model) and model.__module__.startswith("contracts."):
            out.append(model)
    return out


def parts_of(schema: dict[str, Any]) -> set[str]:
    return set(schema.get("$defs", {}))


def test_every_model_is_in_the_catalogue_or_part_of_one_that_is() -> None:
    parts = {name for model in CATALOGUE.values() for name in parts_of(model.model_json_schema())}
    forgotten = [m.__name__ for m in models() if CATALOGUE.get(m.TYPE) is not m and m.__name__ not in parts]
    assert forgotten == []


def test_types_are_unique_and_well_formed() -> None:
    types = [model.TYPE for model in models()]
    assert len(types) == len(set(types))
    assert [name for name in types if not FACT_OR_COMMAND.fullmatch(name)] == []


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_a_model_is_frozen_and_ignores_unknown_fields(model: type[Event]) -> None:
    assert (model.model_config.get("frozen"), model.model_config.get("extra")) == (True, "ignore")


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_a_field_that_may_be_null_may_be_absent(model: type[Event]) -> None:
    # The codec leaves nulls out, so a required field that is null could be written but not read.
    schema = model.model_json_schema(mode="serialization")
    for part in (schema, *schema.get("$defs", {}).values()):
        nullable = {name for name, field in part.get("properties", {}).items() if '"null"' in json.dumps(field)}
        assert nullable & set(part.get("required", ())) == set()
