"""The transition of a saga: (definition, state, input) to (state, timeline entries, commands, timer). Pure.

Every answer is matched by step and attempt; whatever does not fit is noted and changes nothing (orchestrator.md §3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from contracts.events.sync import AnswerStatus, CommandAnswered
from orchestrator.definition import Definition, Step, StepKind

# Full jitter over min(cap, base x 2^n), on top of what the other side asked for (orchestrator.md §3.7).
RETRY_BASE_S: Final = 0.5
RETRY_CAP_S: Final = 30.0

StepStatus = Literal["pending", "commanded", "waiting", "done", "refused", "unsettled"]
SagaStatus = Literal["running", "waiting", "completed", "failed", "needs_attention"]


@dataclass(frozen=True, slots=True)
class StepState:
    """How far one step is. `attempt` counts commands given; `result` is what the provider said."""

    status: StepStatus = "pending"
    attempt: int = 0
    code: str = ""
    provider_ref: str = ""
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SagaState:
    """State of one run; `seq` is the number of its timeline entries."""

    status: SagaStatus
    steps: dict[str, StepState]
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline."""

    seq: int
    entry: str
    step: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """A command to give: the step, and which attempt of it."""

    step: Step
    attempt: int


@dataclass(frozen=True, slots=True)
class Timer:
    """Give the step's next command in `delay_s`, unless something final comes first."""

    step: str
    attempt: int
    delay_s: float


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer came."""

    answer: CommandAnswered


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer of `step`, set after `attempt`, is due."""

    step: str
    attempt: int


Input = Started | Answered | TimerFired


@dataclass(slots=True)
class Transition:
    """What an input leads to; all of it commits together."""

    state: SagaState
    entries: list[Entry] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)

    def note(self, entry: str, step: str = "", **detail: Any) -> None:
        """Add a timeline entry."""
        self.state = replace(self.state, seq=self.state.seq + 1)
        self.entries.append(Entry(self.state.seq, entry, step, detail))

    def set_step(self, name: str, step: StepState) -> None:
        """Replace the state of a step."""
        self.state = replace(self.state, steps=self.state.steps | {name: step})


def initial(definition: Definition) -> SagaState:
    """Return the state before `Started`."""
    return SagaState(status="running", steps={step.name: StepState() for step in definition.steps})


def transition(definition: Definition, state: SagaState, given: Input, jitter: Callable[[], float]) -> Transition:
    """Return what `given` leads to; `jitter` returns a number in [0, 1)."""
    out = Transition(state)
    if isinstance(given, Started):
        out.note("started")
    elif isinstance(given, TimerFired):
        _fire(definition, out, given)
    else:
        _answer(out, given.answer, jitter)
    _advance(definition, out)
    return out


def _fire(definition: Definition, out: Transition, timer: TimerFired) -> None:
    step = out.state.steps.get(timer.step)
    if step is None or step.status != "waiting" or step.attempt != timer.attempt:
        return
    _give(out, definition.step(timer.step))


def _answer(out: Transition, answer: CommandAnswered, jitter: Callable[[], float]) -> None:
    step = out.state.steps.get(answer.step)
    known = {"status": answer.status.value, "attempt": answer.attempt, "code": answer.code}
    if answer.direction != "do" or step is None or step.status not in ("commanded", "waiting", "unsettled"):
        out.note("answer_ignored", answer.step, **known)
        return
    if answer.status is AnswerStatus.APPLIED:
        done = replace(step, status="done", code="", provider_ref=answer.provider_ref, result=dict(answer.result))
        out.set_step(answer.step, done)
        ref = {"provider": answer.provider, "provider_ref": answer.provider_ref}
        out.note("step_done", answer.step, **known, **ref)
    elif answer.status in (AnswerStatus.REFUSED, AnswerStatus.VOIDED):
        out.set_step(answer.step, replace(step, status="refused", code=answer.code))
        out.note("step_refused", answer.step, **known, reason=answer.detail)
    elif answer.attempt != step.attempt or step.status != "commanded":
        # A passing answer to an earlier attempt: the newer command will be answered by itself.
        out.note("answer_ignored", answer.step, **known)
    elif answer.retry_after_s is None:
        out.set_step(answer.step, replace(step, status="unsettled", code=answer.code))
        out.note("step_unsettled", answer.step, **known, reason=answer.detail)
    else:
        delay = answer.retry_after_s + jitter() * min(RETRY_CAP_S, RETRY_BASE_S * 2 ** min(step.attempt, 10))
        out.set_step(answer.step, replace(step, status="waiting", code=answer.code))
        out.timers.append(Timer(answer.step, step.attempt, delay))
        out.note("step_waiting", answer.step, **known, retry_in_s=round(delay, 3), reason=answer.detail)


def _give(out: Transition, step: Step) -> None:
    attempt = out.state.steps[step.name].attempt + 1
    out.set_step(step.name, replace(out.state.steps[step.name], status="commanded", attempt=attempt))
    out.orders.append(Order(step, attempt))
    out.note("command_given", step.name, attempt=attempt)


def _advance(definition: Definition, out: Transition) -> None:
    """Give the commands of steps whose turn it is, and derive the status of the run."""
    steps = out.state.steps
    refused = [step for step in definition.steps if steps[step.name].status == "refused"]
    if not refused:
        for step in definition.steps:
            if steps[step.name].status == "pending" and all(steps[name].status == "done" for name in step.after):
                _give(out, step)
    status = _status(out.state, refused)
    if status != out.state.status:
        out.state = replace(out.state, status=status)
        if status in ("completed", "failed", "needs_attention"):
            out.note(f"saga_{status}")


def _status(state: SagaState, refused: list[Step]) -> SagaStatus:
    statuses = {step.status for step in state.steps.values()}
    if any(step.kind is StepKind.PIVOT for step in refused):
        # Nothing before the pivot has an effect in these definitions, so a refused pivot leaves nothing to undo.
        return "failed"
    if refused or "unsettled" in statuses:
        return "needs_attention"
    if statuses == {"done"}:
        return "completed"
    return "waiting" if "waiting" in statuses else "running"
