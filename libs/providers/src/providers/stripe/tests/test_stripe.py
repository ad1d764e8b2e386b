"""Stripe against the vendor's own library, and the meaning of its payment events."""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import stripe

from contracts.errors import Transient
from contracts.events.sync import PaymentStatus
from contracts.operations.money import PaymentRefund
from providers import registry
from providers.fixtures import EXAMPLE_URL
from providers.sdk import HttpResponse, InboundRequest, PaymentSnapshot, Secret

PROVIDER = registry.get("stripe")
SECRET = "whsec_test_secret"
BODIES = [fixture.body for fixture in PROVIDER.fixtures()] + ['{"note":"café ☕"}'.encode()]


def snapshots(*names: str) -> list[PaymentSnapshot]:
    found = {fixture.name: fixture for fixture in PROVIDER.fixtures()}
    out = []
    for name in names:
        (item,) = PROVIDER.split(found[name].request({}))
        out += PROVIDER.normalise(item.event_type, item.data)
    return out


@pytest.mark.parametrize("body", BODIES)
def test_official_library_accepts_what_we_sign(body: bytes) -> None:
    signed = PROVIDER.verifier().sign(body, url=EXAMPLE_URL, secret=SECRET, now=datetime.now(UTC))
    assert stripe.WebhookSignature.verify_header(body, signed["Stripe-Signature"], SECRET, tolerance=300)


@pytest.mark.parametrize("body", BODIES)
def test_we_accept_what_the_official_library_signs(body: bytes) -> None:
    now = datetime.now(UTC)
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), SECRET, int(now.timestamp()))
    request = InboundRequest("POST", EXAMPLE_URL, {"stripe-signature": [header]}, body)
    assert PROVIDER.verifier().verify(request, [Secret("k", SECRET)], now).key_id == "k"


def test_the_prefix_belongs_to_the_key() -> None:
    body = BODIES[0]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    stamp = str(int(now.timestamp()))
    digest = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, "sha256").hexdigest()
    signed = PROVIDER.verifier().sign(body, url=EXAMPLE_URL, secret=SECRET, now=now)
    assert signed["Stripe-Signature"] == f"t={stamp},v1={digest}"


def test_story_of_a_payment_is_ordered_by_its_fence() -> None:
    story = snapshots(
        "payment_intent.created",
        "payment_intent.payment_failed",
        "payment_intent.succeeded",
        "charge.succeeded",
        "charge.refunded.partial",
        "charge.refunded",
        "charge.dispute.created",
    )
    assert [s.fence for s in story] == sorted({s.fence for s in story})
    assert {s.external_id for s in story} == {story[0].external_id}
    assert [s.status for s in story] == [
        PaymentStatus.PENDING,
        PaymentStatus.FAILED,
        PaymentStatus.SUCCEEDED,
        PaymentStatus.SUCCEEDED,
        PaymentStatus.PARTIALLY_REFUNDED,
        PaymentStatus.REFUNDED,
        PaymentStatus.DISPUTED,
    ]


def test_dispute_leaves_the_amount_to_the_reader() -> None:
    (dispute,) = snapshots("charge.dispute.created")
    assert (dispute.amount, dispute.amount_refunded, dict(dispute.contact)) == (None, None, {})


def test_within_a_second_the_later_state_wins() -> None:
    event = {"created": 1763720000, "data": {"object": _charge()}}
    before = _normalise("charge.succeeded", event)
    refunded = _normalise("charge.refunded", {**event, "data": {"object": _charge(amount_refunded=500, refunded=True)}})
    assert refunded.fence > before.fence
    assert refunded.fence < _normalise("charge.succeeded", {**event, "created": 1763720001}).fence


@pytest.mark.parametrize(("currency", "amount"), [("jpy", 5000), ("kwd", 12345), ("usd", 4200)])
def test_amounts_pass_through_whatever_the_exponent(currency: str, amount: int) -> None:
    charge = _charge(currency=currency, amount=amount, amount_captured=amount)
    snapshot = _normalise("charge.succeeded", {"created": 1, "data": {"object": charge}})
    assert (snapshot.amount, snapshot.currency) == (amount, currency.upper())


def test_partial_capture_counts_what_was_captured() -> None:
    snapshot = _normalise("charge.captured", {"created": 1, "data": {"object": _charge(amount_captured=300)}})
    assert snapshot.amount == 300


def test_expired_authorisation_is_cancelled() -> None:
    charge = _charge(captured=False, amount_captured=0)
    assert _normalise("charge.updated", {"created": 1, "data": {"object": charge}}).status is PaymentStatus.AUTHORIZED
    assert _normalise("charge.expired", {"created": 1, "data": {"object": charge}}).status is PaymentStatus.CANCELED


def test_other_events_say_nothing() -> None:
    assert PROVIDER.normalise("invoice.paid", b'{"created":1,"data":{"object":{"object":"invoice"}}}') == []
    assert snapshots("charge.refund.updated") == []


def test_read_back_does_not_trust_an_incomplete_page() -> None:
    arguments = PaymentRefund(
        effect_key="k" * 64, payment_external_id="pi_1", amount=1, currency="EUR", reason="duplicate"
    )
    answer = HttpResponse(200, {}, {"data": [], "has_more": True})
    with pytest.raises(Transient):
        PROVIDER.operations("payment.refund").parse_read_back(arguments, answer)


def test_key_lifetime_is_nobodys_guess() -> None:
    assert PROVIDER.key_lifetime_h("payment.refund") is None
    assert PROVIDER.key_lifetime_h("payment.refund", {"idempotency_lifetime_h": "24"}) == 24


def _charge(**over: Any) -> dict[str, Any]:
    charge = {"object": "charge", "id": "ch_1", "payment_intent": "pi_1", "status": "succeeded", "captured": True}
    return {**charge, "amount": 500, "amount_captured": 500, "amount_refunded": 0, "currency": "usd", **over}


def _normalise(event_type: str, event: dict[str, Any]) -> PaymentSnapshot:
    (snapshot,) = PROVIDER.normalise(event_type, json.dumps(event).encode())
    return snapshot
