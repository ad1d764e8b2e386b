"""The chapter of the payment that is told out of order: one record, one truth, one event for everyone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from contracts.ids import entity_key
from contracts.topics import SYNC_CHANGES
from patchbay.demo.cast import Actor, Plot
from patchbay.demo.story import PATIENCE_S, Missing, wait_for
from patchbay.demo.webhooks import Stage, deliver_accepted
from patchbay.tailing import Shown, follow
from sandbox.fresh import freshened, snapshots_of

_SNAPSHOTS: Final = re.compile(
    r"^sync_payment_snapshots_total\{(?P<labels>[^}]*)\} (?P<value>[0-9.e+]+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Paid:
    """A payment of this run, as the platform knows it."""

    id: str
    external_id: str
    suffix: str
    trace_id: str


def pay(stage: Stage, plot: Plot, suffix: str) -> Paid:
    """Deliver a successful payment and wait until it is a canonical one."""
    actor = stage.actors[plot.provider.slug]
    deliver_accepted(stage, actor, plot.paid, suffix=suffix)
    renamed = snapshots_of(plot.provider, freshened(plot.provider, plot.paid, suffix, actor.options))
    external_id = renamed[0].external_id
    wait_for(
        "canonical payment", f"payment {external_id}", lambda: find_payment(stage, actor, external_id, "succeeded")
    )
    payment = find_payment(stage, actor, external_id, "succeeded") or {}
    return Paid(payment["id"], external_id, suffix, trace_of(stage, actor, external_id))


def find_payment(stage: Stage, actor: Actor, external_id: str, status: str) -> dict[str, Any] | None:
    """Return the canonical payment of an external id in a status, or None."""
    query = {"tenant": stage.tenant, "provider": actor.slug, "external_id": external_id, "status": status}
    found: list[dict[str, Any]] = stage.platform.get("SYNC_URL", "/v1/entities/payments", **query)["items"]
    return found[0] if found else None


def trace_of(stage: Stage, actor: Actor, external_id: str) -> str:
    """Return the trace id of the newest accepted delivery about a payment."""

    def look() -> str | None:
        query = {"tenant": stage.tenant, "endpoint": actor.endpoint, "entity": f"payment:{external_id}"}
        found = stage.platform.get("LEDGER_URL", "/v1/deliveries", outcome="accepted", **query)["items"]
        return found[0]["trace_id"] if found else None

    return wait_for("ledger", f"delivery about {external_id}", look)


def out_of_order(stage: Stage, plot: Plot, began: datetime) -> Paid:
    """Tell of a success, then of an older state of the same payment: the record must not go back."""
    stage.story.chapter("A payment is told out of order")
    actor = stage.actors[plot.provider.slug]
    paid = pay(stage, plot, f"-{stage.tenant}-a")
    stage.story.say(f"{actor.slug} says that {paid.external_id} succeeded ({plot.paid.name})")
    if plot.older is None:
        stage.story.skip("order", f"{actor.slug} has no fixture of an older state")
    else:
        before = _stale_snapshots(stage, actor)
        deliver_accepted(stage, actor, plot.older, suffix=paid.suffix)
        stage.story.say(f"later {actor.slug} tells of an older state ({plot.older.name})")
        _judged(stage, actor, paid, before)
        stage.story.seen("order", "the older state came later and did not turn the payment back")
    shown = find_payment(stage, actor, paid.external_id, "succeeded")
    if shown is None:
        raise Missing("canonical payment", f"{paid.external_id} is no longer succeeded")
    amount = f"{shown['amount']} {shown['currency']} minor units"
    stage.story.seen("canonical payment", f"{shown['id']} is {shown['status']}, {amount}, version {shown['version']}")
    _changes(stage, paid, began)
    return paid


def _judged(stage: Stage, actor: Actor, paid: Paid, before: float) -> None:
    """Wait until the sync worker has judged the older snapshot: dropped it, or took from it only what was unknown."""

    def judged() -> bool:
        payment = find_payment(stage, actor, paid.external_id, "succeeded")
        return _stale_snapshots(stage, actor) > before or (payment is not None and payment["version"] > 1)

    wait_for("order", "verdict on the older state", judged)


def _stale_snapshots(stage: Stage, actor: Actor) -> float:
    wanted = {f'provider="{actor.slug}"', 'outcome="stale"'}
    page = stage.platform.text("SYNC_URL", "/metrics")
    return sum(float(one["value"]) for one in _SNAPSHOTS.finditer(page) if wanted <= set(one["labels"].split(",")))


def _changes(stage: Stage, paid: Paid, began: datetime) -> None:
    key = entity_key(stage.tenant, "payment", paid.id)
    told: list[Shown] = []

    def see(record: Shown) -> bool:
        if record.key == key:
            told.append(record)
        return bool(told)

    bootstrap = stage.platform.environment["KAFKA_BOOTSTRAP"]
    if not follow(bootstrap, SYNC_CHANGES.name, began, see, PATIENCE_S):
        raise Missing(SYNC_CHANGES.name, f"no record with key {key} within {PATIENCE_S:.0f} s")
    record = told[0]
    stage.story.seen(SYNC_CHANGES.name, f"{record.event_type} at {record.place}, status {record.data['status']}")
