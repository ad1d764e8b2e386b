"""All canonical operations by name. Must never name a provider."""

from __future__ import annotations

from typing import Final

from contracts.errors import Invalid
from contracts.operations import money, people, things
from contracts.operations.base import Arguments


def _all() -> dict[str, type[Arguments]]:
    models = (vars(module).values() for module in (money, people, things))
    found = {model for module in models for model in module if isinstance(model, type)}
    named = [model for model in found if issubclass(model, Arguments) and "OPERATION" in vars(model)]
    return {model.OPERATION: model for model in sorted(named, key=lambda model: model.OPERATION)}


OPERATIONS: Final[dict[str, type[Arguments]]] = _all()


def arguments_of(operation: str) -> type[Arguments]:
    """Return the model of an operation's arguments; raises `Invalid` (`unknown_operation`)."""
    model = OPERATIONS.get(operation)
    if model is None:
        raise Invalid("unknown_operation", f"there is no operation {operation[:64]}", field="operation")
    return model
