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
    operation; faults of a provider for different operations stand side by side. `rate` is the share of requests that
    are hit; `count` ends
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
        self._standing: dict[str, dict[str, _Standing]] = {}

    def set(self, slug: str, fault: Fault) -> None:
        """Replace a provider's fault (for one operation, if it names one); its count and rate begin anew."""
        faults = self._standing.setdefault(slug, {})
        faults.pop(fault.operation, None)
        if fault.mode != "none":
            faults[fault.operation] = _Standing(fault, fault.count, self._monotonic())

    def clear(self, slug: str) -> None:
        """Make a provider work again. Idempotent."""
        self._standing.pop(slug, None)

    def current(self) -> dict[str, list[Fault]]:
        """Return the faults that are set, by slug."""
        return {slug: [one.fault for one in faults.values()] for slug, faults in self._standing.items() if faults}

    def hit(self, slug: str, operation: str = "") -> Fault:
        """Return the fault that the next request of a provider suffers; mode `none` when it is spared."""
        faults = self._standing.get(slug, {})
        standing = faults.get(operation) or faults.get("")
        if standing is None:
            return NO_FAULT
        fault = standing.fault
        if fault.mode == "flap":
            periods = (self._monotonic() - standing.since) * 1000 // max(fault.latency_ms, 1)
            return _OUTAGE if periods % 2 == 0 else NO_FAULT
        standing.due += fault.rate
        if standing.due < 1:
            return NO_FAULT
        standing.due -= 1
        if standing.left is not None:
            standing.left -= 1
            if standing.left == 0:
                del faults[fault.operation]
        return fault
