"""All sagas, found by listing the files of `sagas/`; loaded once."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from contracts.errors import Terminal
from contracts.events.base import Event
from orchestrator.definition import Definition


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A run to start; `given` is the validated input with its `tenant` and `business_key`."""

    definition: Definition
    given: Any
    cause: str


@dataclass(frozen=True, slots=True)
class Saga:
    """One file of `sagas/`."""

    definition: Definition
    input_model: Any
    start_for: Callable[[Event], StartRequest | None]


@cache
def all_sagas() -> dict[str, Saga]:
    """Return the sagas by name."""
    package = importlib.import_module("orchestrator.sagas")
    found: dict[str, Saga] = {}
    for module_info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"orchestrator.sagas.{module_info.name}")
        found[module.DEFINITION.name] = Saga(module.DEFINITION, module.Input, module.start_for)
    return found


def definition_of(name: str, version: int) -> Definition:
    """Return the definition that a run is pinned to; raises `Terminal` (`unknown_definition`) if it is gone."""
    saga = all_sagas().get(name)
    if saga is None or saga.definition.version != version:
        raise Terminal("unknown_definition", f"no definition {name} version {version}")
    return saga.definition
