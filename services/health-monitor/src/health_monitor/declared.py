"""Capabilities that manifests declare and nobody has called yet: their routes are open, and nothing is known of them.

Pure; knows no table.
"""

from __future__ import annotations

from typing import Any

from chassis.http.problems import not_found
from contracts.events.health import RouteState
from contracts.modes import Mode
from health_monitor.failover import Plan, order_of
from health_monitor.statistics import summary
from providers import registry


def uncalled(capability: str, mode: Mode, windows: tuple[str, ...]) -> dict[str, Any]:
    """Return a capability without a route as the API shows one; raises `Problem` 404 if nobody declares it."""
    offering = [one.slug for one in registry.all_providers() if capability in one.manifest.capabilities]
    if not offering:
        raise not_found("capability")
    order = list(order_of(Plan(), offering))
    return {
        "capability": capability,
        "mode": mode,
        "order": order,
        "configured": False,
        "wanted_shares": {},
        "shares": {},
        "providers": [_unknown(slug, capability, mode, windows) | {"order": order} for slug in order],
        "decisions": [],
    }


def _unknown(provider: str, capability: str, mode: Mode, windows: tuple[str, ...]) -> dict[str, Any]:
    return {
        "provider": provider,
        "capability": capability,
        "mode": mode,
        "state": RouteState.UNKNOWN.value,
        "share": 100,
        "epoch": None,
        "reason": "nobody has called it yet",
        "shares": {},
        "probe": False,
        "idempotent_only": False,
        "since": None,
        "override": None,
        "windows": {name: summary(None) for name in windows},
    }
