"""How many deliveries a second an endpoint and a tenant may send; in memory, since a limit must not cost a round trip.

The processes of a fleet share each limit evenly (`Fleet`), so none has to ask another before it answers.
"""

from __future__ import annotations

from chassis.clock import Clock
from contracts.events.sync import RateLimit
from webhook_gateway.endpoints import Endpoint


class Rate:
    """A rate limit by GCRA: one number per limit, exact for any burst (ITU-T I.371, virtual scheduling)."""

    __slots__ = ("_burst", "_due", "_interval_s")

    def __init__(self, per_s: float, burst: int) -> None:
        self._interval_s = 1 / per_s
        self._burst = burst
        self._due = 0.0

    def allow(self, now: float, processes: int = 1) -> bool:
        """Take one, or refuse; `now` is monotonic seconds, `processes` share the limit evenly."""
        interval = self._interval_s * processes
        due = max(self._due, now)
        if due - now > interval * (max(1, self._burst / processes) - 1) + 1e-9:
            return False
        self._due = due + interval
        return True

    def wait_s(self, now: float, processes: int = 1) -> float:
        """Return after how many seconds the next one would be let in."""
        interval = self._interval_s * processes
        return max(0.0, self._due - now - interval * (max(1, self._burst / processes) - 1))


class RateLimits:
    """The limits of endpoints and tenants. `processes` is how many gateways share them, kept by `Fleet`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rates: dict[str, tuple[RateLimit, Rate]] = {}
        self.processes = 1

    def refused_for_s(self, endpoint: Endpoint) -> float:
        """Return 0 and count the delivery when both limits allow it, else the seconds until they may."""
        configured = endpoint.configured
        if configured.rate is None and configured.tenant_rate is None:
            return 0.0
        now = self._clock.monotonic()
        for name, limit in (
            (f"endpoint {endpoint.id}", configured.rate),
            (f"tenant {configured.tenant}", configured.tenant_rate),
        ):
            if limit is not None:
                rate = self._rate(name, limit)
                if not rate.allow(now, self.processes):
                    return rate.wait_s(now, self.processes)
        return 0.0

    def _rate(self, name: str, limit: RateLimit) -> Rate:
        known = self._rates.get(name)
        if known is None or known[0] != limit:
            known = self._rates[name] = (limit, Rate(limit.per_s, limit.burst))
        return known[1]
