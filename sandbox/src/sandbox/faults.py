"""Bad days of a provider: what is wrong, for how many requests, and which requests are hit.

Which requests are hit is counted, not drawn: a rate of 0.25 hits every fourth, so that a test can rely on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal[
    "none", "latency", "throttle", "error", "hang", "drop_after_apply", "outage", "late", "nonsense", "refuse", "flap"
]


class Fault(BaseModel):
    """One fault of one provider.

    latency: answers after `latency_ms`. throttle: 429 with `Retry-After: retry_after_s`. error: 500, nothing applied.
    hang: no answer for `latency_ms` (a minute when 0), nothing applied. drop_after_apply: applied, then the connection
    breaks within the answer. outage: 503, nothing applied. late: applied, answered after `latency_ms`. nonsense:
    applied, answered with 200 and a page for people. refuse: the vendor's documented refusal, where its fixtures show
    one. flap: as outage for `latency_ms`, then well for as long, and so on. `operation` narrows it to one declared
    operation. `rate` is the share of requests that are hit; `count` ends
    the fault after that many hits, absent means until it is cleared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode
    operation: str = ""
    latency_ms: int = Field(default=0, ge=0, le=60_000)
    rate: float = Field(default=1.0, gt=0, le=1)
    retry_after_s: int = Field(default=1, ge=0, le=3600)
    count: int | None = Field(default=None, ge=1)


NO_FAULT = Fault(mode="none")
_OUTAGE = Fault(mode="outage")
# Ten times a tenth is a little less than one in floating point.
_DUE = 1 - 1e-9


@dataclass(slots=True)
class _Standing:
    fault: Fault
    left: int | None
    since: float
    due: float = 0.0


class FaultDesk:
    """The current faults of each provider; `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._standing: dict[str, list[_Standing]] = {}

    def set(self, slug: str, fault: Fault) -> None:
        """Replace a provider's faults by one; its count and rate begin anew."""
        self.clear(slug)
        self.add(slug, fault)

    def add(self, slug: str, fault: Fault) -> None:
        """Let a fault stand beside those that are there."""
        if fault.mode != "none":
            self._standing.setdefault(slug, []).append(_Standing(fault, fault.count, self._monotonic()))

    def clear(self, slug: str) -> None:
        """Make a provider work again. Idempotent."""
        self._standing.pop(slug, None)

    def current(self) -> dict[str, list[Fault]]:
        """Return the faults that are set, by slug."""
        return {slug: [one.fault for one in standing] for slug, standing in self._standing.items() if standing}

    def hit(self, slug: str, operation: str = "") -> Fault:
        """Return the fault that the next request of a provider suffers; mode `none` when it is spared.

        Of several that would hit, the first one does; the others hit one of the next requests.
        """
        standing = self._standing.get(slug, ())
        concerned = [one for one in standing if one.fault.operation in ("", operation)]
        for one in concerned:
            one.due += one.fault.rate if one.fault.mode != "flap" else 0
        for one in concerned:
            if one.fault.mode == "flap":
                periods = (self._monotonic() - one.since) * 1000 // max(one.fault.latency_ms, 1)
                if periods % 2 == 0:
                    return _OUTAGE
            elif one.due >= _DUE:
                self._spend(slug, one)
                return one.fault
        return NO_FAULT

    def _spend(self, slug: str, one: _Standing) -> None:
        one.due -= 1
        if one.left is not None:
            one.left -= 1
            if one.left == 0:
                self._standing[slug].remove(one)
