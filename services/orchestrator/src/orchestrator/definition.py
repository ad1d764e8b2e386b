"""What a saga is made of, as data: steps, their order, and the command of each. Checked when it is loaded."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import Invalid
from contracts.events.orchestrator import Command, RefundPayment, RunOperation, SendMessage
from contracts.operations import arguments_of
from contracts.topics import Lane

COMMANDS: Final[dict[str, type[Command]]] = {model.TYPE: model for model in (RefundPayment, SendMessage, RunOperation)}
_INPUT, _STEPS = "$input.", "$steps."


class StepKind(StrEnum):
    """Before the pivot a saga can still end undone; after it, it only goes forward (orchestrator.md §3.1)."""

    PIVOT = "pivot"
    RETRIABLE = "retriable"


class Step(BaseModel):
    """One step. `arguments` are literals, or `$input.<field>` and `$steps.<name>.<field of its result>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: StepKind
    after: tuple[str, ...] = ()
    command: str
    arguments: dict[str, Any]

    @property
    def operation(self) -> str:
        """The canonical operation that the step asks for; empty while only the run's input can tell."""
        if self.command != RunOperation.TYPE:
            return self.command.rpartition(".")[0]
        named = str(self.arguments.get("operation", ""))
        return "" if named.startswith("$") else named


class Definition(BaseModel):
    """A saga's definition. A run is pinned to (name, version); a changed definition is a new version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    version: int = Field(ge=1)
    lane: Lane
    steps: tuple[Step, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        """Refuse steps before what they wait for, unknown commands, and retriable steps that precede the pivot."""
        seen: set[str] = set()
        pivots = [step.name for step in self.steps if step.kind is StepKind.PIVOT]
        if len(pivots) != 1:
            raise ValueError("a saga has exactly one pivot")
        for step in self.steps:
            if set(step.after) - seen or step.name in seen:
                raise ValueError(f"{step.name}: waits for a later or unknown step, or occurs twice")
            if step.kind is StepKind.RETRIABLE and not set(step.after) & (seen & self._behind(pivots[0])):
                raise ValueError(f"{step.name}: a retriable step stands behind the pivot")
            if step.command not in COMMANDS:
                raise ValueError(f"{step.name}: no command {step.command}")
            _check_operation(step)
            seen.add(step.name)
        return self

    def _behind(self, pivot: str) -> set[str]:
        behind = {pivot}
        for step in self.steps:
            if set(step.after) & behind:
                behind.add(step.name)
        return behind

    def step(self, name: str) -> Step:
        """Return a step by name; raises `KeyError`."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)


def _check_operation(step: Step) -> None:
    try:
        if step.operation:
            arguments_of(step.operation)
    except Invalid as error:
        raise ValueError(f"{step.name}: {error.detail}") from None


def resolve(arguments: dict[str, Any], given: dict[str, Any], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a step's arguments with references replaced; an absent optional value is left out."""
    out: dict[str, Any] = {}
    for name, value in arguments.items():
        found = value
        if isinstance(value, str) and value.startswith(_INPUT):
            found = given.get(value.removeprefix(_INPUT))
        elif isinstance(value, str) and value.startswith(_STEPS):
            step, _, field = value.removeprefix(_STEPS).partition(".")
            found = results.get(step, {}).get(field)
        if found is not None:
            out[name] = found
    return out
