"""What a vendor makes of an answer, how long it waits for one, and when it comes back; its opinion of an endpoint.

Must never be kinder than the manifest: what it does not say is taken the way most vendors do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import httpx

from providers.manifest import EventAnswer, Retries, Webhook

# What a vendor that publishes no deadline is given; published ones lie between 3 and 30 s.
DEADLINE_S: Final = 10.0
# Where only the horizon of retries is published, waits double from a minute on: our choice, like most vendors' curve.
FIRST_WAIT_S: Final = 60
HOUR_S: Final = 3600
_LATER: Final = frozenset({429, 503})
_MAX_DIGITS: Final = 6
_WRONG_BODY: Final = "the body is not the one that the vendor wants"

# delivered; later: 429 or 503; stopped: the receiver wants it no more; refused: anything else.
Verdict = Literal["delivered", "later", "refused", "stopped"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why if it is not obvious from the status, and how long the receiver asked to be left alone."""

    verdict: Verdict
    why: str = ""
    retry_after_s: float = 0.0


@dataclass(slots=True)
class Standing:
    """What a vendor thinks of an endpoint: failures in a row and in all, and whether it has given it up."""

    provider: str
    url: str
    strikes: int = 0
    strikes_in_all: int = 0
    disabled: bool = False

    def note(self, *, delivered: bool, disable_after: int | None) -> None:
        """Count an attempt; `disable_after` strikes in a row end the endpoint, None never does."""
        if delivered:
            self.strikes = 0
            return
        self.strikes += 1
        self.strikes_in_all += 1
        self.disabled = self.disabled or (disable_after is not None and self.strikes >= disable_after)


def deadline_s(webhook: Webhook) -> float:
    """Return how long the vendor waits for an answer."""
    return DEADLINE_S if webhook.ack_deadline_ms is None else webhook.ack_deadline_ms / 1000


def waits_s(retries: Retries | None) -> list[float]:
    """Return the waits between a vendor's attempts in seconds; empty for one that never repeats or does not say."""
    if retries is None:
        return []
    if retries.schedule_s:
        return [float(wait) for wait in retries.schedule_s]
    waits: list[float] = []
    while sum(waits) + FIRST_WAIT_S * 2 ** len(waits) <= retries.horizon_h * HOUR_S:
        waits.append(float(FIRST_WAIT_S * 2 ** len(waits)))
    return waits


def judge(webhook: Webhook, answer: httpx.Response, wanted: EventAnswer | None = None) -> Judgement:
    """Return what the vendor makes of an answer: only 2xx, with the body that it wants, is a yes.

    `wanted` is what this kind of event wants instead of the usual answer. A redirect is none. `Retry-After` counts
    where the vendor takes 429 and 503 for what they are.
    """
    if answer.is_success and wanted is not None:
        return Judgement("delivered") if _is(answer, wanted) else Judgement("refused", _WRONG_BODY)
    if answer.is_success:
        if webhook.success_body and answer.text.strip() != webhook.success_body:
            return Judgement("refused", _WRONG_BODY)
        return Judgement("delivered")
    if answer.status_code == webhook.stop_status:
        return Judgement("stopped")
    if answer.status_code in _LATER:
        asked = answer.headers.get("retry-after", "")
        known = webhook.throttle == "retry" and asked.isdigit() and len(asked) <= _MAX_DIGITS
        return Judgement("later", retry_after_s=float(asked) if known else 0.0)
    return Judgement("refused")


def _is(answer: httpx.Response, wanted: EventAnswer) -> bool:
    try:
        return answer.status_code == wanted.status and bool(answer.json() == wanted.json_body)
    except ValueError:
        return False
