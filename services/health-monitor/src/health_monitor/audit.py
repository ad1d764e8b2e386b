"""Entries of the audit log: decisions with their evidence, alarms, and what operators did."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from chassis import audit
from chassis.db.database import UnitOfWork
from contracts.modes import Mode, keyed
from health_monitor.monitor import Alarm, Decision

SERVICE: Final = "health-monitor"


def record(uow: UnitOfWork, actor: str, action: str, target: str, at: datetime, **detail: str) -> None:
    """Add one entry; `action` is past tense and dotted. Leaves with the transaction."""
    audit.record(uow, SERVICE, audit.Act(actor, action, target, detail=detail), at)


def target(capability: str, provider: str, mode: Mode) -> str:
    """Return how entries name a route."""
    return keyed("route", capability, provider, mode=mode)


def decision(uow: UnitOfWork, decided: Decision) -> None:
    """Add a decision about a route, if its state or step moved."""
    move, made = decided.move, decided.record
    if move is None:
        return
    evidence = {name: str(value) for name, value in move.evidence.items() if value not in ({}, None)}
    record(
        uow,
        decided.actor or SERVICE,
        "route.changed",
        target(made.capability, made.provider, made.mode),
        made.decided_at,
        mode=made.mode,
        before=move.before,
        after=move.after,
        reason=made.reason,
        share=str(made.share),
        epoch=f"{made.epoch[0]}.{made.epoch[1]}",
        evidence=", ".join(f"{name}={value}" for name, value in sorted(evidence.items())),
    )


def alarm(uow: UnitOfWork, raised: Alarm) -> None:
    """Add the beginning or the end of an alarm."""
    action = f"{raised.kind}.{'began' if raised.began else 'ended'}"
    record(uow, SERVICE, action, "routes", raised.at, reason=raised.reason, mode=raised.mode)
