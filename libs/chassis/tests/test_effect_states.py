"""The state machine of an effect: what may be sent again, and what an outcome proves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.effects.states import (
    NEEDS_SETTLEMENT,
    Applied,
    Effect,
    Missing,
    NotApplied,
    Outcome,
    Parked,
    Refused,
    Superseded,
    Traits,
    Unclear,
    Verdict,
    plan,
    runnable,
    settle,
)
from contracts.events.sync import AnswerStatus
from contracts.topics import Lane

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = Traits(timeout_s=10)


def effect(state: Any, **known: Any) -> Effect:
    fields: dict[str, Any] = {
        "key": "k", "saga_id": UUID(int=1), "step": "s", "direction": "do", "tenant": "t", "lane": Lane.STANDARD,
        "operation": "payment.refund", "command": {}, "personal": None, "request_hash": "", "deadline": None,
        "connection": None, "provider": "p", "state": state, "code": "", "detail": "", "provider_ref": "", "result": {},
        "attempt": 1, "answered": 0, "calls": 0, "version": 0, "trace": "", "origin": "saga", "lease_until": None,
        "sent_at": None, "parked_until": None, "updated_at": NOW,
    }  # fmt: skip
    return Effect(**(fields | known))


def test_work_is_an_unanswered_attempt_that_nobody_holds() -> None:
    assert runnable(effect("reserved"), NOW)
    assert not runnable(effect("reserved", answered=1), NOW)
    assert not runnable(effect("sent", lease_until=NOW + timedelta(seconds=1)), NOW)
    assert runnable(effect("sent", lease_until=NOW), NOW)


@pytest.mark.parametrize(
    ("known", "traits", "expected"),
    [
        ({"state": "reserved"}, PLAIN, "send"),
        ({"state": "reserved", "deadline": NOW}, PLAIN, "expired"),
        ({"state": "unknown", "deadline": NOW}, Traits(10, look_up=True), "look_up"),
        ({"state": "unknown"}, PLAIN, "needs_settlement"),
        ({"state": "unknown"}, Traits(10, repeatable=True), "send"),
        ({"state": "sent"}, Traits(10, look_up=True), "look_up"),
        ({"state": "unknown", "sent_at": NOW - timedelta(hours=23)}, Traits(10, key_lifetime_h=24), "send"),
        ({"state": "unknown", "sent_at": NOW - timedelta(hours=24)}, Traits(10, key_lifetime_h=24), "needs_settlement"),
        ({"state": "unknown", "sent_at": NOW - timedelta(hours=25)}, Traits(10, 24, look_up=True), "look_up"),
    ],
)
def test_an_unknown_effect_is_sent_again_only_where_it_is_recognised(
    known: dict[str, Any], traits: Traits, expected: str
) -> None:
    found = plan(effect(**known), traits, NOW)
    assert (found.code if isinstance(found, Verdict) else found) == expected
    assert NEEDS_SETTLEMENT.retry_after_s is None


OUTCOMES: list[Outcome] = [
    Applied("ref"),
    Refused("no", "no"),
    NotApplied("throttled", "later"),
    Unclear("timeout", "?"),
    Missing(),
    Parked("route_shut", "down"),
    Superseded(),
]


@given(
    state=st.sampled_from(["reserved", "sent", "unknown"]),
    action=st.sampled_from(["send", "look_up"]),
    outcome=st.sampled_from(OUTCOMES),
    age_s=st.sampled_from([0, 1, 5, 3600]),
)
def test_doubt_ends_by_proof_alone(state: Any, action: Any, outcome: Outcome, age_s: int) -> None:
    one = effect(state, sent_at=NOW - timedelta(seconds=age_s))
    settled = settle(one, action, outcome, Traits(10, look_up=True, lag_s=2), NOW)
    if isinstance(outcome, Superseded):
        assert settled is None
        return
    assert settled is not None
    if state in {"sent", "unknown"} and settled.state == "reserved":
        assert isinstance(outcome, Missing), "only an answered look-up makes an effect sendable again"
        assert age_s >= 2, "and only after the provider's lag"
    if settled.state == "applied":
        assert isinstance(outcome, Applied)
    if settled.state == "refused":
        assert isinstance(outcome, Refused)
        assert action == "send", "a look-up that is refused says nothing about the effect"
    if settled.verdict is not None and settled.verdict.status is AnswerStatus.TRANSIENT:
        assert settled.state == "reserved"
    assert (settled.verdict is None) == (isinstance(outcome, Missing) and age_s >= 2)
