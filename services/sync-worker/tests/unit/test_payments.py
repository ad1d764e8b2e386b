"""The canonical payment is the same whatever the order of arrival, and never turns back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from chassis.effects.desk import request_hash
from contracts.codec import decode, encode
from contracts.events.orchestrator import RefundPayment, SendMessage
from contracts.events.sync import PaymentChanged, PaymentStatus
from providers.sdk import PaymentSnapshot
from sync_worker.models import Payment
from sync_worker.payments import Seen, changed_event, merge

START = datetime(2026, 3, 1, tzinfo=UTC)
CONNECTION = UUID(int=1)


def seen(fence: int, status: str = "succeeded", contact: bytes | None = None, **known: Any) -> Seen:
    values = {"amount": None, "amount_refunded": None, "currency": None} | known
    shot = PaymentSnapshot(
        "p1", PaymentStatus(status), **values, occurred_at=START + timedelta(seconds=fence), fence=fence
    )
    return Seen("t1", "payer", CONNECTION, shot, contact)


def merged(*snapshots: Seen) -> Payment:
    known: Payment | None = None
    for one in snapshots:
        known = merge(known, one, START) or known
    assert known is not None
    return known


def facts(payment: Payment) -> dict[str, Any]:
    return payment.model_dump(exclude={"version", "updated_at"})


@st.composite
def histories(draw: st.DrawFn) -> list[Seen]:
    """Return up to six snapshots in order; each knows a part, as providers' events do."""
    fences = sorted(draw(st.sets(st.integers(0, 50), min_size=1, max_size=6)))
    money = st.none() | st.integers(0, 3)
    return [
        seen(
            fence,
            draw(st.sampled_from(list(PaymentStatus))),
            draw(st.none() | st.binary(min_size=1, max_size=2)),
            amount=draw(money),
            amount_refunded=draw(money),
            currency=draw(st.sampled_from([None, "EUR"])),
        )
        for fence in fences
    ]


@given(history=histories(), data=st.data())
def test_any_order_and_repetition_ends_like_the_order_of_events(history: list[Seen], data: st.DataObject) -> None:
    arrival = data.draw(st.permutations(history + data.draw(st.lists(st.sampled_from(history), max_size=4))))
    assert facts(merged(*arrival)) == facts(merged(*history))


@given(history=histories(), data=st.data())
def test_the_fence_never_falls_and_the_version_grows_by_one(history: list[Seen], data: st.DataObject) -> None:
    known: Payment | None = None
    for one in data.draw(st.permutations(history)):
        after = merge(known, one, START)
        if after is not None and known is not None:
            assert after.version == known.version + 1
            assert after.fence >= known.fence
            assert after.fence > known.fence or after.status == known.status
        known = after or known


def test_a_late_snapshot_fills_in_what_nobody_knew_but_not_the_status() -> None:
    payment = merged(
        seen(20, "disputed"), seen(5, "pending", amount=1000), seen(10, "succeeded", amount=900, amount_refunded=300)
    )
    assert (payment.status, payment.amount, payment.amount_refunded) == ("disputed", 900, 300)


def test_an_amount_of_nothing_is_an_amount() -> None:
    assert merged(seen(1, amount=1000), seen(2, amount=0)).amount == 0


def test_a_snapshot_that_says_nothing_new_changes_nothing() -> None:
    known = merged(seen(2, amount=1000, currency="EUR"))
    assert merge(known, seen(2, amount=1000, currency="EUR"), START) is None
    assert merge(known, seen(1, "pending", amount=5), START) is None


def test_the_event_tells_the_state_without_the_contact() -> None:
    event = changed_event(merged(seen(1, contact=b"sealed", amount=5, currency="EUR")), PaymentStatus.PENDING, "evt_1")
    again = decode(PaymentChanged, encode(event))
    assert (again.status, again.previous_status, again.amount, again.cause) == ("succeeded", "pending", 5, "evt_1")
    assert b"sealed" not in encode(event)


def refund(**fields: Any) -> RefundPayment:
    known = {"saga_id": UUID(int=2), "step": "refund", "effect_key": "k", "attempt": 1, "tenant": "t1"}
    return RefundPayment(**(known | {"payment_id": UUID(int=3)} | fields))


def test_a_request_hash_is_equal_for_all_attempts_and_differs_for_another_request() -> None:
    first = request_hash(refund())
    assert first == request_hash(refund(attempt=7, deadline=START, lane="critical"))
    others = [refund(amount=1), refund(reason="other"), refund(payment_id=UUID(int=4)), refund(tenant="t2")]
    message = SendMessage(**refund().model_dump(exclude={"amount", "reason"}), text="x")
    assert len({first, *map(request_hash, others), request_hash(message)}) == len(others) + 2
