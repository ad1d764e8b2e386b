"""Whether bulk is let in: an operator's emergency switch, and how far the consumers are behind.

Must never touch critical or standard deliveries, nor refuse a provider that does not come back after a refusal.
"""

from __future__ import annotations

from chassis.clock import Clock
from chassis.telemetry.metrics import gauge
from contracts.codec import decode
from contracts.envelope import Envelope
from contracts.events.gateway import AdmissionChanged
from contracts.topics import Lane
from webhook_gateway.limits import Rate, RateLimits
from webhook_gateway.metrics import BULK_LIMIT

# Bulk that is slowed is still let in by bursts of a second, or small providers would starve between large ones.
BURST_S = 1.0


class Admission:
    """The newest decision, fed by `gateway.admission.v1`; without one, everything is let in."""

    def __init__(self, limits: RateLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._emergency = False
        self._rate: Rate | None = None

    def apply(self, _key: str, envelope: Envelope | None) -> None:
        """Take one record of the topic."""
        changed = None if envelope is None else decode(AdmissionChanged, envelope.data)
        self._emergency = changed is not None and changed.emergency
        per_s = None if changed is None else changed.bulk_per_s
        self._emergency = self._emergency or per_s == 0
        self._rate = Rate(per_s, max(1, int(per_s * BURST_S))) if per_s else None
        gauge(BULK_LIMIT).set(0 if self._emergency else (per_s if per_s is not None else float("inf")))

    def sheds(self, lane: Lane) -> bool:
        """Tell whether a delivery of this lane is over what may come in now."""
        if lane is not Lane.BULK:
            return False
        if self._emergency:
            return True
        return self._rate is not None and not self._rate.allow(self._clock.monotonic(), self._limits.processes)
