"""Definitions are checked when they are loaded, and once more against what can be carried out when a run starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import Invalid
from contracts.events.orchestrator import RefundPayment, RunOperation
from contracts.topics import Lane
from orchestrator.definition import Definition, Step, StepKind
from orchestrator.runtime import check_offered
from providers import registry


def definition(**arguments: Any) -> Definition:
    step = Step(name="book", kind=StepKind.PIVOT, command=RunOperation.TYPE, arguments=arguments)
    return Definition(name="booking", version=1, lane=Lane.STANDARD, steps=(step,))


def test_a_step_names_a_canonical_operation_or_leaves_it_to_the_input() -> None:
    assert definition(operation="calendar.hold").steps[0].operation == "calendar.hold"
    assert definition(operation="$input.operation").steps[0].operation == ""
    refund = Step(name="refund", kind=StepKind.PIVOT, command=RefundPayment.TYPE, arguments={})
    assert refund.operation == "payment.refund"
    with pytest.raises(ValidationError, match=r"there is no operation calendar\.fold"):
        definition(operation="calendar.fold")


def test_what_nobody_offers_is_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    check_offered(definition(operation="$input.operation"))
    monkeypatch.setattr(registry, "with_operation", lambda name: [] if name == "calendar.hold" else ["somebody"])
    check_offered(definition(operation="calendar.move"))
    with pytest.raises(Invalid) as refused:
        check_offered(definition(operation="calendar.hold"))
    assert (refused.value.code, refused.value.field) == ("operation_not_offered", "steps.book")
