from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from contracts.codec import decode
from contracts.errors import Invalid
from contracts.events.health import QuotaPolicy, RouteChanged
from contracts.events.sync import CallsObserved, QuotaUsage
from contracts.modes import MODES, calls_key, keyed, quota_key

AT = "2026-03-01T12:00:00Z"
# As they were written before there were modes.
OLD: dict[Any, dict[str, Any]] = {
    CallsObserved: {"worker": "w", "provider": "acme", "capability": "sms", "observed_at": AT, "runs": []},
    QuotaUsage: {"provider": "acme", "bucket": "app", "worker": "w", "used": {}, "since": AT, "until": AT},
    RouteChanged: {
        "provider": "acme",
        "capability": "sms",
        "epoch": [1, 2],
        "state": "down",
        "share": 0,
        "reason": "3 of 3 probes failed",
        "decided_at": AT,
    },
    QuotaPolicy: {
        "provider": "acme",
        "bucket": "app",
        "windows": [{"limit": 5, "seconds": 1}],
        "version": 3,
        "decided_at": AT,
    },
}


@pytest.mark.parametrize("model", OLD)
def test_a_record_without_a_mode_is_live(model: type[CallsObserved]) -> None:
    assert decode(model, json.dumps(OLD[model]).encode()).mode == "live"


@pytest.mark.parametrize("model", OLD)
def test_a_mode_that_there_is_not_is_refused_by_name(model: type[CallsObserved]) -> None:
    with pytest.raises(Invalid) as refused:
        decode(model, json.dumps(OLD[model] | {"mode": "test"}).encode())
    assert "mode" in f"{refused.value.field} {refused.value.detail}"


def test_live_keys_are_what_they_were_and_no_two_routes_share_one() -> None:
    assert calls_key("acme", "sms", "live") == "acme:sms"
    assert calls_key("acme", "sms", "sandbox") == "acme:sms:sandbox"
    assert quota_key("acme", "account", "live") == "acme:account"
    assert quota_key("acme", "account", "sandbox") == "acme:account:sandbox"
    assert keyed("acme", mode="sandbox") == "acme:sandbox"
    routes = list(product(("acme", "sandbox"), ("sms", "sandbox"), MODES))
    assert len({calls_key(*route) for route in routes}) == len(routes)
