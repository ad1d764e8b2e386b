"""The chapter of two providers for one capability: the preferred one goes away, the other takes over, it comes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from patchbay.client import Refusal
from patchbay.demo.story import Missing, wait_for
from patchbay.demo.webhooks import Stage
from patchbay.output import table
from providers import registry
from providers.provider import Provider

OPERATION: Final = "email.send"
CAPABILITY: Final = "messaging.email"
# Detection takes a second or two here, a return under twenty; a busy machine may need more.
PATIENCE_S: Final = 90.0
PAUSE_S: Final = 0.3


def pair() -> tuple[Provider, Provider] | None:
    """Return two providers of the capability that need no person to be connected, the preferred one first."""
    found = [one for one in registry.with_operation(OPERATION) if one.api.method().kind != "oauth2"]
    probed = [one for one in found if one.manifest.health is not None]
    return (probed[0], probed[1]) if len(probed) > 1 else None


def fail_over(stage: Stage) -> None:
    """Send mails while the preferred provider goes away and comes back; show who sent them, and why."""
    chosen = pair()
    stage.story.chapter("Two providers for e-mail, and one goes away")
    if chosen is None:
        stage.story.skip("failover", f"no two providers offer {OPERATION}")
        return
    first, backup = chosen
    order = {"order": [first.slug, backup.slug]}
    stage.platform.put("HEALTH_URL", f"/v1/capabilities/{CAPABILITY}/order", order)
    stage.story.say(f"{first.slug} sends e-mail, {backup.slug} is its backup")
    _until(stage, "failover", first.slug, lambda _seconds: None)
    fault = f"/_control/faults/{first.slug}"
    stage.platform.put("SANDBOX_URL", fault, {"mode": "outage"})
    try:
        took = _until(stage, "failover", backup.slug, lambda _seconds: None)
        stage.story.seen("failover", f"{backup.slug} sent a mail {took:.1f} s after {first.slug} went away")
        _explain(stage, first)
    finally:
        stage.platform.delete("SANDBOX_URL", fault)
    stage.story.say(f"{first.slug} works again")
    steps: list[str] = []

    def note(_seconds: float) -> None:
        state = _route(stage, first).get("state", "")
        if state and (not steps or steps[-1] != state):
            steps.append(state)

    back = wait_for("staged return", f"{first.slug} healthy", lambda: _healthy(stage, first, note), PATIENCE_S)
    _until(stage, "staged return", first.slug, note)
    stage.story.seen("staged return", f"{' → '.join(steps)}: {back['reason']}")


def _until(stage: Stage, station: str, wanted: str, note: Callable[[float], None]) -> float:
    """Send mails until `wanted` sends one, and return how long that took in seconds."""
    began, sent = time.monotonic(), 0
    while time.monotonic() - began < PATIENCE_S:
        sent += 1
        effect = _mail(stage, sent)
        note(time.monotonic() - began)
        if effect.get("state") == "applied" and effect["provider"] == wanted:
            return time.monotonic() - began
        time.sleep(PAUSE_S)
    raise Missing(station, f"none of {sent} mails was sent by {wanted}")


def _mail(stage: Stage, number: int) -> dict[str, Any]:
    arguments = {
        "recipient": f"guest-{number}@example.com",
        "subject": "Your appointment",
        "text": "See you tomorrow.",
        "sender": "salon@example.com",
    }
    body = {"operation": OPERATION, "tenant": stage.tenant, "arguments": arguments}
    try:
        asked = stage.platform.post("SYNC_URL", "/v1/operations", body)
    except Refusal as refusal:
        raise Missing("failover", str(refusal)) from None
    deadline = time.monotonic() + 3
    while True:
        effect: dict[str, Any] = stage.platform.get("SYNC_URL", f"/v1/effects/{asked['key']}")
        settled = effect["state"] in {"applied", "refused"} or effect["answered"] > 0
        if settled or time.monotonic() > deadline:
            return effect
        time.sleep(0.05)


def _route(stage: Stage, provider: Provider) -> dict[str, Any]:
    try:
        found: dict[str, Any] = stage.platform.get("HEALTH_URL", f"/v1/routes/{CAPABILITY}/{provider.slug}")
    except Refusal:
        return {}
    return found


def _healthy(stage: Stage, provider: Provider, note: Callable[[float], None]) -> dict[str, Any] | None:
    note(0)
    route = _route(stage, provider)
    return route if route.get("state") == "healthy" else None


def _explain(stage: Stage, first: Provider) -> None:
    """Show what the health monitor says about the capability, in its own words."""
    found = stage.platform.get("HEALTH_URL", f"/v1/routes/{CAPABILITY}")
    shares = found.get("shares", {})
    rows = [
        (f"   {one['provider']}", one["state"], f"{shares.get(one['provider'], one.get('share'))} %", one["reason"])
        for one in found["providers"]
    ]
    stage.story.show(table(("   provider", "state", "share", "because"), rows))
    down = next((one for one in found["providers"] if one["provider"] == first.slug), None)
    if down is None or not down["reason"]:
        raise Missing("explanation", f"the route of {first.slug} says nothing")
    stage.story.seen("explanation", f"{first.slug}: {down['reason']}")
