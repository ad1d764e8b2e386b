"""Which lane an event takes: the endpoint's rules, its lane, the manifest, in this order."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.events.sync import EndpointLaneRule
from contracts.topics import Lane
from providers import registry
from providers.lanes import Classifier
from providers.provider import Provider
from providers.sdk import WebhookItem

NOW = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
WEBHOOKS = [p for p in registry.all_providers() if p.manifest.webhook]
STANDARD = next(
    p for p in WEBHOOKS if p.webhook.lane is Lane.STANDARD and not p.webhook.lanes and not p.webhook.unsigned
)
HINTED = next(
    p
    for p in WEBHOOKS
    if {f"header:{name}".lower() for name in p.webhook.unsigned} & {str(one).lower() for one in p.webhook.event_type}
)


def lane(document: Any, *rules: EndpointLaneRule, event_type: str = "order.created", own: Lane = Lane.STANDARD) -> Lane:
    item = WebhookItem(
        "1", event_type, None, document if isinstance(document, bytes) else json.dumps(document).encode()
    )
    return Classifier(STANDARD, own, rules).lane(item, NOW)


def critical(**conditions: Any) -> EndpointLaneRule:
    return EndpointLaneRule(lane=Lane.CRITICAL, **conditions)


def test_without_rules_the_endpoint_decides_and_then_the_manifest() -> None:
    assert lane({}) is Lane.STANDARD
    assert lane({}, own=Lane.BULK) is Lane.BULK


def test_the_first_rule_that_matches_wins() -> None:
    rules = (EndpointLaneRule(lane=Lane.BULK, types=("order.*",)), critical(types=("*",)))
    assert lane({}, *rules) is Lane.BULK
    assert lane({}, *rules, event_type="refund.created") is Lane.CRITICAL


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (999, Lane.STANDARD),
        (1000, Lane.CRITICAL),
        ("1000.00", Lane.CRITICAL),
        ("many", Lane.STANDARD),
        (True, Lane.STANDARD),
        (None, Lane.STANDARD),
    ],
)
def test_an_amount_counts_as_a_number_or_a_decimal_in_text(amount: object, expected: Lane) -> None:
    assert lane({"total": {"amount": amount}}, critical(amount="/total/amount", min_amount=1000)) is expected


@pytest.mark.parametrize(
    ("due", "zone", "expected"),
    [
        ("2026-03-01", "UTC", Lane.CRITICAL),
        ("2026-03-02", "UTC", Lane.STANDARD),
        # Half past eleven at night in UTC is the next day in Berlin.
        ("2026-03-02", "Europe/Berlin", Lane.CRITICAL),
        ("2026-03-02T00:15:00+01:00", "UTC", Lane.CRITICAL),
        ("2026-03-02T09:00:00", "Europe/Berlin", Lane.CRITICAL),
        (int(NOW.timestamp()), "UTC", Lane.CRITICAL),
        ("tomorrow", "UTC", Lane.STANDARD),
        (10**30, "UTC", Lane.STANDARD),
        (None, "UTC", Lane.STANDARD),
    ],
)
def test_what_is_due_today_at_the_place_is_critical(due: object, zone: str, expected: Lane) -> None:
    assert lane({"appointment": {"start": due}}, critical(due="/appointment/start", timezone=zone)) is expected


def test_all_conditions_of_a_rule_must_hold() -> None:
    rule = critical(types=("order.*",), amount="/amount", min_amount=10, due="/day")
    assert lane({"amount": 10, "day": "2026-03-01"}, rule) is Lane.CRITICAL
    assert lane({"amount": 9, "day": "2026-03-01"}, rule) is Lane.STANDARD
    assert lane({"amount": 10}, rule) is Lane.STANDARD


@pytest.mark.parametrize("body", [b"\xff\xfe", b"", b"a=b", b"[]"])
def test_a_body_that_cannot_be_read_meets_no_condition(body: bytes) -> None:
    assert lane(body, critical(amount="/amount", min_amount=1)) is Lane.STANDARD


def test_a_type_that_is_not_signed_never_chooses_the_critical_lane() -> None:
    def chosen(rule: EndpointLaneRule, provider: Provider) -> Lane:
        return Classifier(provider, Lane.STANDARD, [rule]).lane(WebhookItem("1", "push", None, b"{}"), NOW)

    named = critical(types=("push",))
    assert chosen(named, HINTED) is not Lane.CRITICAL
    assert chosen(critical(types=("*",)), HINTED) is Lane.CRITICAL
    assert chosen(EndpointLaneRule(lane=Lane.BULK, types=("push",)), HINTED) is Lane.BULK
    assert chosen(named, STANDARD) is Lane.CRITICAL


def test_an_endpoint_knows_whether_it_may_be_critical() -> None:
    assert not Classifier(STANDARD, Lane.STANDARD, []).may_be_critical
    assert not Classifier(STANDARD, Lane.BULK, []).may_be_critical
    assert Classifier(STANDARD, Lane.CRITICAL, []).may_be_critical
    assert Classifier(STANDARD, Lane.BULK, [critical(types=("a",))]).may_be_critical
