"""The state machine of an effect: RESERVED → SENT → APPLIED | REFUSED | UNKNOWN | VOIDED. Pure.

Must never let an effect be sent a second time on a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from contracts.events.sync import AnswerStatus
from contracts.topics import Lane

State = Literal["reserved", "sent", "applied", "refused", "unknown", "voided"]
# States that no further attempt changes; the stored answer is given again.
FINAL: Final[dict[str, AnswerStatus]] = {
    "applied": AnswerStatus.APPLIED,
    "refused": AnswerStatus.REFUSED,
    "voided": AnswerStatus.VOIDED,
}
PARKED_RETRY_S: Final = 5.0
UNKNOWN_RETRY_S: Final = 2.0
TRANSIENT_RETRY_S: Final = 2.0


@dataclass(slots=True)
class Effect:
    """One effect and how far it got.

    `attempt` is the newest attempt that was asked for, `answered` the newest that got an answer: a row whose `attempt`
    is ahead and whose lease is over has work to do. `version` grows with each change of state and fences whoever read
    an older one. `command` is what every attempt needs, without personal data, which is sealed in `personal`.
    """

    key: str
    saga_id: UUID
    step: str
    direction: Literal["do", "undo"]
    tenant: str
    lane: Lane
    operation: str
    command: dict[str, Any]
    personal: bytes | None = field(repr=False)
    request_hash: str
    deadline: datetime | None
    connection: UUID | None
    provider: str
    state: State
    code: str
    detail: str
    provider_ref: str
    result: dict[str, Any]
    attempt: int
    answered: int
    calls: int
    version: int
    trace: str
    origin: str
    lease_until: datetime | None
    sent_at: datetime | None
    parked_until: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Traits:
    """What is known of an operation: how long a repeated key is recognised (None: nobody says), and how to look it up.

    `repeatable` operations leave the same state however often they are sent. Absence in a look-up means something only
    `lag_s` after the effect was sent. `timeout_s` bounds one call.
    """

    timeout_s: float
    key_lifetime_h: float | None = None
    repeatable: bool = False
    look_up: bool = False
    lag_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Applied:
    """It is done."""

    provider_ref: str
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not be done: a business answer."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class NotApplied:
    """This attempt provably had no effect; it may be tried again after a while."""

    code: str
    detail: str
    retry_after_s: float = TRANSIENT_RETRY_S


@dataclass(frozen=True, slots=True)
class Unclear:
    """Nobody knows whether this attempt had an effect."""

    code: str
    detail: str
    retry_after_s: float | None = UNKNOWN_RETRY_S


@dataclass(frozen=True, slots=True)
class Missing:
    """A look-up was answered, and the effect is not there."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Nothing was tried, because the way is shut until `retry_after_s` from now at the earliest."""

    code: str
    detail: str
    retry_after_s: float = PARKED_RETRY_S


@dataclass(frozen=True, slots=True)
class Superseded:
    """Somebody else took the effect over; nothing was done."""


Outcome = Applied | Refused | NotApplied | Unclear | Missing | Parked | Superseded
Action = Literal["send", "look_up"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer says: status, a stable code with its explanation, and when another attempt makes sense."""

    status: AnswerStatus
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None


NEEDS_SETTLEMENT: Final = Verdict(
    AnswerStatus.UNKNOWN, "needs_settlement", "the outcome is unknown and the provider cannot be asked"
)


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of an effect after a call: its next state, the answer, or that the next call follows at once."""

    state: State
    verdict: Verdict | None
    provider_ref: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)


def runnable(effect: Effect, now: datetime) -> bool:
    """Tell whether an effect has an unanswered attempt and nobody works on it."""
    return effect.attempt > effect.answered and (effect.lease_until is None or effect.lease_until <= now)


def plan(effect: Effect, traits: Traits, now: datetime) -> Action | Verdict:
    """Return the next call of a runnable effect, or the answer when there is none to make.

    SENT with its lease over is UNKNOWN: whoever sent it is gone. An unknown effect is sent again only where the
    provider recognises it, for as long as it does.
    """
    if effect.state == "reserved":
        if effect.deadline is not None and effect.deadline <= now:
            return Verdict(AnswerStatus.REFUSED, "expired", "not sent before its deadline")
        return "send"
    if traits.repeatable or _recognised(effect, traits, now):
        return "send"
    return "look_up" if traits.look_up else NEEDS_SETTLEMENT


def _recognised(effect: Effect, traits: Traits, now: datetime) -> bool:
    if traits.key_lifetime_h is None or effect.sent_at is None:
        return False
    return now - effect.sent_at < timedelta(hours=traits.key_lifetime_h)


def settle(effect: Effect, action: Action, outcome: Outcome, traits: Traits, now: datetime) -> Settled | None:
    """Return what an outcome proves about an effect, or None when it is somebody else's by now.

    `effect` is as it was before the call. What an earlier request did stays unknown, whatever became of this one.
    """
    doubtful = effect.state in ("sent", "unknown")
    back: State = "unknown" if doubtful else "reserved"
    match outcome:
        case Superseded():
            return None
        case Missing():
            return _missing(effect, traits, now)
        case Applied(provider_ref, result):
            return Settled("applied", Verdict(AnswerStatus.APPLIED), provider_ref, result)
        case Refused(code, detail):
            if action == "send":
                return Settled("refused", Verdict(AnswerStatus.REFUSED, code, detail))
            return Settled("unknown", Verdict(AnswerStatus.UNKNOWN, code, detail, UNKNOWN_RETRY_S))
        case Unclear(code, detail, retry_after_s):
            back, status = "unknown", AnswerStatus.UNKNOWN
        case Parked(code, detail, retry_after_s):
            status = AnswerStatus.PARKED
        case NotApplied(code, detail, retry_after_s):
            status = AnswerStatus.UNKNOWN if doubtful else AnswerStatus.TRANSIENT
    return Settled(back, Verdict(status, code, detail, retry_after_s))


def _missing(effect: Effect, traits: Traits, now: datetime) -> Settled:
    waited_s = (now - effect.sent_at).total_seconds() if effect.sent_at else traits.lag_s
    if waited_s < traits.lag_s:
        detail = "the provider does not show it yet"
        return Settled("unknown", Verdict(AnswerStatus.UNKNOWN, "read_back_too_early", detail, traits.lag_s))
    return Settled("reserved", None)
