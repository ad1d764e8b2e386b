"""What a service brings to take part in sagas. Must never commit anything itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from chassis.db.connection import Connection
from chassis.effects.states import Action, Effect, Outcome, Traits
from contracts.events.orchestrator import Command


class Refusal(Exception):  # noqa: N818 (a business answer, not a fault)
    """A command that can be answered without trying: no."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Target:
    """Where a command goes, and what to remember of it so that every attempt asks for the same.

    `personal` is sealed already. `provider` and `connection` are empty for effects of one's own.
    """

    operation: str
    command: dict[str, Any]
    personal: bytes | None = field(default=None, repr=False)
    provider: str = ""
    connection: UUID | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """An effect that could be carried out now; `job` is the participant's own."""

    traits: Traits
    job: Any = field(repr=False)


# Commits that the effect is SENT (or taken over for a look-up); false means that somebody else has it.
Mark = Callable[[], Awaitable[bool]]


class Participant(Protocol):
    """How a service's effects are carried out."""

    async def resolve(self, connection: Connection, command: Command) -> Target:
        """Return where a new command goes; raises `Refusal`."""
        ...

    async def undo(self, connection: Connection, done: Effect, command: Command) -> Target | None:
        """Return what takes a done effect back, or None when nothing does; raises `Refusal`."""
        ...

    async def prepare(self, effect: Effect) -> Prepared | Outcome:
        """Return an effect ready to be tried, or the outcome when it cannot be. Nothing leaves yet."""
        ...

    async def perform(self, effect: Effect, prepared: Prepared, action: Action, mark: Mark) -> Outcome:
        """Carry it out, or look it up; `mark` must be true before anything leaves. Raises nothing it can foresee."""
        ...
