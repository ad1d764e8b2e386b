"""The pure transition: what every input leads to, and what no order of inputs can ever lead to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.errors import Terminal
from contracts.events.base import Event
from contracts.events.orchestrator import RefundPayment, SendMessage
from contracts.events.sync import AnswerStatus, CommandAnswered, PaymentChanged, PaymentStatus
from contracts.topics import Lane
from orchestrator.catalogue import all_sagas, definition_of
from orchestrator.definition import Definition, Step, StepKind, resolve
from orchestrator.engine import Answered, Input, SagaState, Started, TimerFired, Transition, initial, transition

SAGA = UUID(int=1)
AT = datetime(2026, 3, 1, tzinfo=UTC)


def step(name: str, kind: str = "retriable", after: tuple[str, ...] = (), command: str = SendMessage.TYPE) -> Step:
    return Step(name=name, kind=StepKind(kind), after=after, command=command, arguments={})


def definition(*steps: Step) -> Definition:
    return Definition(name="test", version=1, lane=Lane.STANDARD, steps=steps)


# A pivot, two branches and a join.
DIAMOND = definition(
    step("pay", "pivot"),
    step("mail", after=("pay",)),
    step("text", after=("pay",)),
    step("end", after=("mail", "text")),
)
LINE = definition(step("pay", "pivot"), step("text", after=("pay",)))


def answered(name: str, status: str, attempt: int = 1, **facts: Any) -> Answered:
    direction = facts.pop("direction", "do")
    return Answered(
        CommandAnswered(
            saga_id=SAGA,
            step=name,
            direction=direction,
            effect_key="k",
            attempt=attempt,
            status=AnswerStatus(status),
            answered_at=AT,
            **facts,
        )
    )


def run(given_to: Definition, *inputs: Input, jitter: float = 0.0) -> tuple[SagaState, list[Transition]]:
    state, out = initial(given_to), []
    for one in inputs:
        out.append(transition(given_to, state, one, lambda: jitter))
        state = out[-1].state
    return state, out


def orders(out: list[Transition]) -> list[tuple[str, int]]:
    return [(order.step.name, order.attempt) for one in out for order in one.orders]


def test_steps_follow_what_they_wait_for_and_branches_run_together() -> None:
    inputs: list[Input] = [
        Started(),
        answered("pay", "applied"),
        answered("text", "applied"),
        answered("mail", "applied"),
    ]
    state, out = run(DIAMOND, *inputs)
    assert orders(out) == [("pay", 1), ("mail", 1), ("text", 1), ("end", 1)]
    assert state.status == "running"
    state, _ = run(DIAMOND, *inputs, answered("end", "applied", provider_ref="r", result={"n": 1}))
    assert (state.status, state.steps["end"].provider_ref, state.steps["end"].result) == ("completed", "r", {"n": 1})


def test_the_timeline_is_numbered_without_gaps() -> None:
    _, out = run(LINE, Started(), answered("pay", "applied"), answered("text", "applied"))
    entries = [entry for one in out for entry in one.entries]
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.entry for entry in entries] == [
        "started", "command_given", "step_done", "command_given", "step_done", "saga_completed"
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["transient", "parked", "unknown"])
def test_a_passing_answer_waits_and_the_timer_gives_the_next_attempt(status: str) -> None:
    inputs: list[Input] = [Started(), answered("pay", status, retry_after_s=5)]
    state, out = run(LINE, *inputs, jitter=0.5)
    (timer,) = out[-1].timers
    assert (state.status, timer.step, timer.attempt, timer.delay_s) == ("waiting", "pay", 1, 5 + 0.5 * 1.0)
    state, out = run(LINE, *inputs, TimerFired("pay", 1))
    assert (state.status, orders(out)) == ("running", [("pay", 1), ("pay", 2)])


def test_the_wait_grows_to_its_cap_and_keeps_what_was_asked_for() -> None:
    inputs: list[Input] = [Started()]
    for attempt in range(1, 15):
        inputs += [answered("pay", "parked", attempt, retry_after_s=5), TimerFired("pay", attempt)]
    _, out = run(LINE, *inputs, jitter=0.999)
    delays = [timer.delay_s for one in out for timer in one.timers]
    assert delays == sorted(delays)
    assert 5 < delays[0] < 7
    assert 34 < delays[-1] < 35


def test_a_refused_pivot_fails_the_run_and_nothing_follows() -> None:
    state, out = run(LINE, Started(), answered("pay", "refused", code="too_late"))
    assert (state.status, state.steps["pay"].code, orders(out)) == ("failed", "too_late", [("pay", 1)])


def test_a_refused_step_behind_the_pivot_needs_a_person() -> None:
    state, _ = run(LINE, Started(), answered("pay", "applied"), answered("text", "refused"))
    assert state.status == "needs_attention"


def test_an_unknown_outcome_without_a_retry_needs_a_person_and_goes_on_once_settled() -> None:
    inputs: list[Input] = [Started(), answered("pay", "unknown", code="needs_settlement")]
    assert run(LINE, *inputs)[0].status == "needs_attention"
    state, out = run(LINE, *inputs, answered("pay", "applied"))
    assert (state.status, orders(out)) == ("running", [("pay", 1), ("text", 1)])


def test_what_does_not_fit_is_noted_and_changes_nothing() -> None:
    base: list[Input] = [Started(), answered("pay", "parked", retry_after_s=1), TimerFired("pay", 1)]
    before, _ = run(LINE, *base)
    for strange in (
        answered("pay", "parked", 1, retry_after_s=1),
        answered("nobody", "applied"),
        answered("text", "applied"),
        answered("pay", "applied", 2, direction="undo"),
    ):
        after, out = run(LINE, *base, strange)
        assert after.steps == before.steps
        assert [entry.entry for entry in out[-1].entries] == ["answer_ignored"]
        assert not out[-1].orders
    for timer in (TimerFired("pay", 1), TimerFired("pay", 2), TimerFired("nobody", 1)):
        after, out = run(LINE, *base, timer)
        assert (after, out[-1].entries, out[-1].orders) == (before, [], [])


def test_a_late_success_of_an_earlier_attempt_counts() -> None:
    state, out = run(
        LINE,
        Started(),
        answered("pay", "unknown", retry_after_s=1),
        TimerFired("pay", 1),
        answered("pay", "applied", 1),
    )
    assert (state.steps["pay"].status, orders(out)[-1]) == ("done", ("text", 1))


names = st.sampled_from([one.name for one in DIAMOND.steps])
attempts = st.integers(1, 4)
inputs = st.lists(
    st.builds(TimerFired, names, attempts)
    | st.builds(
        lambda name, status, attempt, retry: answered(name, status, attempt, retry_after_s=retry),
        names,
        st.sampled_from(["applied", "applied", *AnswerStatus]),
        attempts,
        st.sampled_from([None, 1.0]),
    ),
    max_size=40,
)


@given(inputs=inputs)
def test_no_order_or_repetition_of_inputs_breaks_a_run(inputs: list[Input]) -> None:
    state = transition(DIAMOND, initial(DIAMOND), Started(), lambda: 0.0).state
    given_before = {("pay", 1)}
    for one in inputs:
        out = transition(DIAMOND, state, one, lambda: 0.0)
        for order in out.orders:
            assert (order.step.name, order.attempt) not in given_before, "one command per attempt"
            given_before.add((order.step.name, order.attempt))
            assert all(out.state.steps[name].status == "done" for name in order.step.after)
        for name, before in state.steps.items():
            after = out.state.steps[name]
            assert after.attempt >= before.attempt
            assert after.status == before.status or before.status not in {"done", "refused"}, "what is final stays"
        assert [entry.seq for entry in out.entries] == list(range(state.seq + 1, out.state.seq + 1))
        assert (out.state.status == "completed") == all(s.status == "done" for s in out.state.steps.values())
        assert not (state.status == "completed" and (out.orders or out.timers)), "a completed run gives no command"
        state = out.state


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ((step("a"),), "exactly one pivot"),
        ((step("a", "pivot"), step("b", "pivot", ("a",))), "exactly one pivot"),
        ((step("a", "pivot"), step("b")), "stands behind the pivot"),
        ((step("b", after=("a",)), step("a", "pivot")), "later or unknown"),
        ((step("a", "pivot"), step("b", after=("nobody",))), "later or unknown"),
        ((step("a", "pivot"), step("b", after=("b",))), "later or unknown"),
        ((step("a", "pivot"), step("a", after=("a",))), "occurs twice"),
        ((step("a", "pivot", command="nothing.v1"),), "no command"),
        ((), "at least 1"),
    ],
)
def test_an_unsound_definition_is_refused(steps: tuple[Step, ...], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        definition(*steps)


def test_references_are_resolved_and_absent_values_left_out() -> None:
    arguments = {"a": "$input.x", "b": "$steps.pay.n", "c": "plain", "d": "$input.gone", "e": "$steps.no.n", "f": 3}
    assert resolve(arguments, {"x": 1}, {"pay": {"n": 2}}) == {"a": 1, "b": 2, "c": "plain", "f": 3}


def test_every_saga_of_the_catalogue_can_be_found_by_its_version() -> None:
    for name, saga in all_sagas().items():
        assert definition_of(name, saga.definition.version) is saga.definition
        with pytest.raises(Terminal):
            definition_of(name, saga.definition.version + 1)
    with pytest.raises(Terminal):
        definition_of("nobody", 1)


def changed(status: PaymentStatus, previous: PaymentStatus | None) -> Event:
    return PaymentChanged(
        payment_id=SAGA,
        tenant="t1",
        connection=SAGA,
        provider="payer",
        external_id="p1",
        status=status,
        previous_status=previous,
        occurred_at=AT,
        version=2,
        cause="e1",
    )


def test_a_payment_that_becomes_disputed_starts_the_refund_and_nothing_else_does() -> None:
    start_for = all_sagas()["refund-and-notify"].start_for
    started = start_for(changed(PaymentStatus.DISPUTED, PaymentStatus.SUCCEEDED))
    assert started is not None
    assert (started.given.tenant, started.given.business_key) == ("t1", f"payment:{SAGA}")
    assert start_for(changed(PaymentStatus.DISPUTED, None)) is not None
    assert start_for(changed(PaymentStatus.DISPUTED, PaymentStatus.DISPUTED)) is None
    assert start_for(changed(PaymentStatus.REFUNDED, PaymentStatus.DISPUTED)) is None
    refund = RefundPayment(saga_id=SAGA, step="s", effect_key="k", attempt=1, tenant="t1", payment_id=SAGA)
    assert start_for(refund) is None
