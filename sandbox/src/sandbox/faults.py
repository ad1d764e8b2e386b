"""Bad days of a provider: what is wrong, for how many requests, and which requests are hit.

Which requests are hit is counted, not drawn: a rate of 0.25 hits every fourth, so that a test can rely on it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["none", "latency", "throttle", "error", "hang", "drop_after_apply", "outage"]


class Fault(BaseModel):
    """One fault of one provider.

    latency: answers after `latency_ms`. throttle: 429 with `Retry-After: retry_after_s`. error: 500, nothing applied.
    hang: no answer for `latency_ms` (a minute when 0), nothing applied. drop_after_apply: applied, then the connection
    breaks within the answer. outage: 503, nothing applied. `rate` is the share of requests that are hit; `count` ends
    the fault after that many hits, absent means until it is cleared.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode
    latency_ms: int = Field(default=0, ge=0, le=60_000)
    rate: float = Field(default=1.0, gt=0, le=1)
    retry_after_s: int = Field(default=1, ge=0, le=3600)
    count: int | None = Field(default=None, ge=1)


NO_FAULT = Fault(mode="none")


class FaultDesk:
    """The current fault of each provider."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._left: dict[str, int | None] = {}
        self._due: dict[str, float] = {}

    def set(self, slug: str, fault: Fault) -> None:
        """Replace a provider's fault; its count and rate begin anew."""
        self.clear(slug)
        if fault.mode != "none":
            self._faults[slug], self._left[slug], self._due[slug] = fault, fault.count, 0.0

    def clear(self, slug: str) -> None:
        """Make a provider work again. Idempotent."""
        for table in (self._faults, self._left, self._due):
            table.pop(slug, None)

    def current(self) -> dict[str, Fault]:
        """Return the faults that are set, by slug."""
        return dict(self._faults)

    def hit(self, slug: str) -> Fault:
        """Return the fault that the next request of a provider suffers; mode `none` when it is spared."""
        fault = self._faults.get(slug)
        if fault is None:
            return NO_FAULT
        self._due[slug] += fault.rate
        if self._due[slug] < 1:
            return NO_FAULT
        self._due[slug] -= 1
        left = self._left[slug]
        if left == 1:
            self.clear(slug)
        elif left is not None:
            self._left[slug] = left - 1
        return fault
