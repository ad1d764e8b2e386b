"""The chapter of the refund whose message cannot be sent: the saga waits, the route is shut, all comes right once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from patchbay.client import Refusal
from patchbay.demo.cast import MESSAGE, SMS, Actor, Plot
from patchbay.demo.payments import Paid, pay, trace_of
from patchbay.demo.story import Missing, wait_for
from patchbay.demo.webhooks import Stage, deliver_accepted
from patchbay.output import table

# Detection needs five failed calls, which come with growing waits; recovery needs probes and the longest wait.
OUTAGE_PATIENCE_S: Final = 90.0
RECOVERY_PATIENCE_S: Final = 150.0
# The sync worker puts the first characters of the effect key into the text, so that a lost answer can be read back.
REFERENCE_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class Refund:
    """One saga of this run, and the payment that it refunds."""

    saga_id: str
    paid: Paid
    started_by: str


def refund_through_an_outage(stage: Stage, plot: Plot, messengers: list[Actor], paid: Paid) -> str | None:
    """Start sagas while every provider of messages is away, repair them, and prove one effect per step.

    Returns the trace id of the delivery that started a saga, None when no delivery did.
    """
    names = " and ".join(one.slug for one in messengers)
    stage.story.chapter(f"A refund, while {names} {'is' if len(messengers) == 1 else 'are'} away")
    order = {"order": [one.slug for one in messengers]}
    stage.platform.put("HEALTH_URL", f"/v1/capabilities/{SMS}/order", order)
    faults = [f"/_control/faults/{one.slug}" for one in messengers]
    for fault, one in zip(faults, messengers, strict=True):
        # What became of a message there cannot be asked: after an outage a person would have to find out.
        asked = one.provider.manifest.operation(MESSAGE)
        mode = "outage" if asked is not None and asked.read_back else "throttle"
        stage.platform.put("SANDBOX_URL", fault, {"mode": mode})
    try:
        refunds, trace_id = _start(stage, plot, paid)
        _waiting(stage, refunds)
        _route(stage, messengers[0], "health: route down", {"down"}, OUTAGE_PATIENCE_S)
    finally:
        for fault in faults:
            stage.platform.delete("SANDBOX_URL", fault)
    stage.story.say(f"{names} can be reached again")
    for refund in refunds:
        done = _saga_in(stage, refund, {"completed"}, RECOVERY_PATIENCE_S)
        stage.story.seen("saga completed", f"{refund.saga_id} ({refund.started_by}) is {done['status']}")
    _route(stage, messengers[0], "health: route back", {"recovering", "healthy"}, OUTAGE_PATIENCE_S)
    _timeline(stage, refunds[-1])
    _effects(stage, plot, messengers, refunds)
    return trace_id


def _start(stage: Stage, plot: Plot, paid: Paid) -> tuple[list[Refund], str | None]:
    body = {"tenant": stage.tenant, "payment_id": paid.id, "reason": "requested_by_customer"}
    started = stage.platform.post("ORCHESTRATOR_URL", "/v1/sagas/refund-and-notify", body)
    refunds = [Refund(started["id"], paid, "by a person")]
    stage.story.say(f"somebody asks for a refund of {paid.external_id}: saga {started['id']}")
    trace_id = None
    if plot.disputed is None:
        stage.story.skip("saga by dispute", f"{plot.provider.slug} has no fixture of a dispute")
    else:
        actor = stage.actors[plot.provider.slug]
        second = pay(stage, plot, f"-{stage.tenant}-b")
        deliver_accepted(stage, actor, plot.disputed, suffix=second.suffix)
        saga_id = wait_for("saga by dispute", f"saga for {second.external_id}", lambda: _saga_of(stage, second))
        refunds.append(Refund(saga_id, second, "by a dispute"))
        trace_id = wait_for(
            "saga by dispute",
            "trace of the dispute",
            lambda: _other(trace_of(stage, actor, second.external_id), second),
        )
        stage.story.seen(
            "saga by dispute", f"{actor.slug} told of a dispute about {second.external_id}: saga {saga_id}"
        )
    return refunds, trace_id


def _other(trace_id: str, paid: Paid) -> str | None:
    """Return a trace that is not the one of the payment itself: the ledger may not have the dispute yet."""
    return trace_id if trace_id != paid.trace_id else None


def _saga_of(stage: Stage, paid: Paid) -> str | None:
    query = {"tenant": stage.tenant, "business_key": f"payment:{paid.id}"}
    found = stage.platform.get("ORCHESTRATOR_URL", "/v1/sagas", **query)["items"]
    return found[0]["id"] if found else None


def _saga_in(stage: Stage, refund: Refund, statuses: set[str], patience_s: float) -> dict[str, Any]:
    """Wait for a saga's status; one that ended otherwise is not waited for."""
    station = "saga completed" if "completed" in statuses else "saga waits"

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = stage.platform.get("ORCHESTRATOR_URL", f"/v1/sagas/{refund.saga_id}")
        if found["status"] in {"failed", "needs_attention"}:
            raise Missing(station, f"{refund.saga_id} is {found['status']}: {found['steps']}")
        return found if found["status"] in statuses else None

    return wait_for(station, f"saga {refund.saga_id} in {' or '.join(sorted(statuses))}", look, patience_s)


def _waiting(stage: Stage, refunds: list[Refund]) -> None:
    for refund in refunds:
        saga = _saga_in(stage, refund, {"waiting"}, OUTAGE_PATIENCE_S)
        steps = ", ".join(f"{name} {state['status']}" for name, state in saga["steps"].items())
        stage.story.seen("saga waits", f"{refund.saga_id} ({refund.started_by}): {steps}")


def _route(stage: Stage, messenger: Actor, station: str, states: set[str], patience_s: float) -> None:
    def look() -> dict[str, Any] | None:
        route: dict[str, Any] = {}
        with suppress(Refusal):
            route = stage.platform.get("HEALTH_URL", f"/v1/health/{SMS}/{messenger.slug}")
        return route if route.get("state") in states else None

    route = wait_for(station, f"route to {messenger.slug} in {' or '.join(sorted(states))}", look, patience_s)
    stage.story.seen(station, f"{messenger.slug} for {SMS} is {route['state']}: {route['reason']}")


def _timeline(stage: Stage, refund: Refund) -> None:
    saga = stage.platform.get("ORCHESTRATOR_URL", f"/v1/sagas/{refund.saga_id}")
    rows = [
        (f"   {one['seq']}", one["at"], one["entry"], one["step"], one["detail"].get("code", ""))
        for one in saga["timeline"]
    ]
    stage.story.show(table(("   seq", "at", "entry", "step", "code"), rows))


def _effects(stage: Stage, plot: Plot, messengers: list[Actor], refunds: list[Refund]) -> None:
    """Compare what the providers did with what was asked for: one refund and one message per saga, no more."""
    refunded = _applied(stage, plot.provider.slug)
    messages = [one for messenger in messengers for one in _applied(stage, messenger.slug)]
    for refund in refunds:
        known = stage.platform.get("SYNC_URL", "/v1/effects", saga_id=refund.saga_id)["items"]
        keys = {effect["step"]: effect["key"] for effect in known}
        given = [one for one in refunded if one["subject"] == refund.paid.external_id]
        token = keys["notify"][:REFERENCE_CHARS].upper()
        told = [one for one in messages if token in str(one["detail"])]
        if (len(given), len(told)) != (1, 1):
            why = f"saga {refund.saga_id} led to {len(given)} refunds and {len(told)} messages"
            raise Missing("exactly one effect", why)
        evidence = f"saga {refund.saga_id}: 1 refund ({given[0]['ref']}), 1 message ({told[0]['ref']})"
        stage.story.seen("exactly one effect", evidence)


def _applied(stage: Stage, slug: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stage.platform.get("SANDBOX_URL", "/_control/effects", provider=slug)["items"]
    return found
