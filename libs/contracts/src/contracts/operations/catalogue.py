"""All canonical operations by name. Must never name a provider."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Final

from contracts.errors import Invalid
from contracts.operations import money, people, things
from contracts.operations.base import Arguments

# Where a person finds every operation with its arguments; `make docs` writes it.
LIST: Final = "docs/reference/operations.md"
_MAX_SHOWN: Final = 64


def _all() -> dict[str, type[Arguments]]:
    models = (vars(module).values() for module in (money, people, things))
    found = {model for module in models for model in module if isinstance(model, type)}
    named = [model for model in found if issubclass(model, Arguments) and "OPERATION" in vars(model)]
    return {model.OPERATION: model for model in sorted(named, key=lambda model: model.OPERATION)}


OPERATIONS: Final[dict[str, type[Arguments]]] = _all()


def arguments_of(operation: str) -> type[Arguments]:
    """Return the model of an operation's arguments; raises `Invalid` (`unknown_operation`, with what comes near)."""
    model = OPERATIONS.get(operation)
    if model is None:
        asked = operation[:_MAX_SHOWN]
        near = get_close_matches(asked, OPERATIONS)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        told = f"there is no operation {asked}; {hint}All are listed in {LIST}"
        raise Invalid("unknown_operation", told, field="operation")
    return model
