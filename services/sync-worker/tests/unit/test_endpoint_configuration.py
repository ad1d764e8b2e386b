"""What an operator may set on an endpoint: everything that the gateway could not obey is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.codec import field_path
from contracts.errors import Invalid
from contracts.events.sync import EndpointConfigured
from contracts.topics import Lane
from providers.provider import Provider
from sync_worker.endpoints.configuration import EndpointSettings, check, shown


def parse(**fields: Any) -> EndpointSettings:
    # Through JSON, as requests come: strict models read a list as a tuple only there.
    return EndpointSettings.model_validate_json(json.dumps(fields))


RULE = {"lane": "critical", "types": ["invoice.*"]}
ROUTES = {"source": "body:/account", "accounts": {"acct_1": "t1"}}

GOOD: list[dict[str, Any]] = [
    {"lane": "bulk"},
    {"allowed_ips": ["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]},
    {"allowed_ips": "provider"},
    {"rate": {"per_s": 0.5, "burst": 1}},
    {"lane_rules": [RULE, {"lane": "bulk", "types": ["[ab]*", "x?"]}]},
    {"lane_rules": [{"lane": "critical", "amount": "/data/amount", "min_amount": 1000}]},
    {"lane_rules": [{"lane": "critical", "due": "/start_at", "timezone": "Europe/Warsaw"}]},
    {"tenant_routes": ROUTES},
    {"tenant_routes": {"source": "form:AccountSid", "accounts": {"AC1": "t1"}}},
    {"arrivals": {"mode": "fixed", "max_gap_s": 3600}},
    {"redact": ["/customer/email", "/a~1b/0"]},
    {"card_numbers": "mask", "rate": None, "tenant_routes": None},
]

BAD: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "colour"),
    ({"lane": "fast"}, "lane"),
    ({"state": "paused"}, "state"),
    ({"allowed_ips": "anyone"}, "allowed_ips"),
    ({"allowed_ips": ["203.0.113.1/24"]}, "allowed_ips"),
    ({"allowed_ips": ["203.0.113.0/33"]}, "allowed_ips"),
    ({"allowed_ips": [1]}, "allowed_ips"),
    ({"allowed_ips": ["203.0.113.7"] * 501}, "allowed_ips"),
    ({"rate": {"per_s": 0, "burst": 1}}, "rate.per_s"),
    ({"rate": {"per_s": 1}}, "rate.burst"),
    ({"rate": {"per_s": "1", "burst": 1}}, "rate.per_s"),
    ({"max_body_bytes": 0}, "max_body_bytes"),
    ({"lane_rules": [RULE | {"types": []}]}, "lane_rules.0"),
    ({"lane_rules": [RULE, RULE | {"types": ["[ab"]}]}, "lane_rules.1.types.0"),
    ({"lane_rules": [RULE | {"types": ["two words"]}]}, "lane_rules.0.types.0"),
    ({"lane_rules": [RULE | {"amount": "/amount"}]}, "lane_rules.0"),
    ({"lane_rules": [RULE | {"min_amount": 5}]}, "lane_rules.0"),
    ({"lane_rules": [RULE | {"due": "/at", "timezone": "Europe/Atlantis"}]}, "lane_rules.0"),
    ({"lane_rules": [RULE | {"timezone": "../../etc/passwd"}]}, "lane_rules.0"),
    ({"lane_rules": [RULE] * 51}, "lane_rules"),
    ({"tenant_routes": ROUTES | {"source": "header:X-Account"}}, "tenant_routes.source"),
    ({"tenant_routes": ROUTES | {"source": "body:account"}}, "tenant_routes.source"),
    ({"tenant_routes": ROUTES | {"accounts": {}}}, "tenant_routes.accounts"),
    ({"tenant_routes": ROUTES | {"accounts": {"a": "No Slug"}}}, "tenant_routes.accounts.a"),
    ({"arrivals": {"mode": "fixed"}}, "arrivals"),
    ({"arrivals": {"mode": "learned", "max_gap_s": 5}}, "arrivals"),
    ({"redact": ["customer"]}, "redact.0"),
    ({"redact": ["/a~2"]}, "redact.0"),
    ({"redact": ["/a\x00"]}, "redact.0"),
    ({"card_numbers": "drop"}, "card_numbers"),
    ({"options": {"a": 1}}, "options.a"),
]


@pytest.mark.parametrize("fields", GOOD, ids="-".join)
def test_what_the_gateway_can_obey_is_taken_and_published_as_given(fields: dict[str, Any]) -> None:
    settings = parse(**fields)
    given = settings.given()
    assert set(given) == set(fields) - {"lane"}
    stored = shown(given)
    assert {name: stored[name] for name in given} == given
    published = stored | {"allowed_ips": ()} if stored["allowed_ips"] == "provider" else stored
    identity = {"endpoint": "e", "connection": "0" * 32, "provider": "p", "tenant": "t", "url": "u", "secrets": ()}
    EndpointConfigured.model_validate(published | identity | {"version": 1})


@pytest.mark.parametrize(("fields", "field"), BAD)
def test_what_it_could_not_obey_is_refused_and_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse(**fields)
    assert [field_path(one) for one in refused.value.errors()] == [field]


def test_ranges_are_stored_in_one_spelling() -> None:
    settings = parse(allowed_ips=["2001:DB8:0::/32", "203.0.113.7", "203.0.113.7/32"])
    assert settings.given()["allowed_ips"] == ["2001:db8::/32", "203.0.113.7/32"]


def verdict(provider: Any, limits: Any, **fields: Any) -> str | None:
    try:
        check(parse(**fields), provider, {}, limits)
    except Invalid as error:
        return error.field
    return None


def test_platform_and_provider_set_the_bounds(kit: Any) -> None:
    over = kit.limits.max_per_s + 1
    assert verdict(kit.payer, kit.limits, rate={"per_s": over, "burst": 1}) == "rate"
    assert verdict(kit.payer, kit.limits, rate={"per_s": 1, "burst": int(over) * 10}) == "rate"
    assert verdict(kit.payer, kit.limits, rate={"per_s": over - 1, "burst": int(over)}) is None
    assert verdict(kit.payer, kit.limits, max_body_bytes=kit.limits.max_body_bytes + 1) == "max_body_bytes"
    assert verdict(kit.payer, kit.limits, max_body_bytes=kit.limits.max_body_bytes) is None
    assert verdict(kit.payer, kit.limits, options={"colour": "red"}) == "options.colour"
    assert verdict(kit.payer, kit.limits, allowed_ips="provider") == "allowed_ips"


def hinting_like(provider: Provider) -> Provider:
    """Return a provider that publishes addresses, and whose type stands in a header that it does not sign."""
    changes = {"unsigned": ("X-Event",), "event_type": ("header:x-event",), "ip_ranges": ("192.0.2.0/24",)}
    webhook = provider.webhook.model_copy(update=changes)
    return Provider(provider.folder, provider.manifest.model_copy(update={"webhook": webhook}))


def test_a_type_that_nobody_signed_cannot_make_an_event_critical_alone(kit: Any) -> None:
    hinting = hinting_like(kit.payer)
    assert verdict(hinting, kit.limits, allowed_ips="provider") is None
    assert verdict(hinting, kit.limits, lane_rules=[RULE | {"lane": "bulk"}, RULE]) == "lane_rules.1"
    assert verdict(hinting, kit.limits, lane_rules=[RULE | {"amount": "/a", "min_amount": 1}]) is None
    assert verdict(hinting, kit.limits, lane_rules=[{"lane": Lane.CRITICAL}]) is None
