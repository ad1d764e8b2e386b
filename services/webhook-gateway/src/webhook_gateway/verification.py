"""Proof of who sent a delivery: the provider's scheme, the endpoint's live secrets, and the vendor's published keys.

Must never fetch a key from anywhere but the hosts that the provider's manifest pins, nor wait for one without a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from providers.sdk import HandshakeReply, KeyNeeded, Refused, Verified
from webhook_gateway.arrival import Arrival
from webhook_gateway.keys import KeyCache

T = TypeVar("T")

# A certificate and its issuer's; a scheme that asks for more is leading us around.
MAX_KEYS: Final = 3


class Gate:
    """Verifies arrivals with the keys that their schemes need."""

    def __init__(self, keys: KeyCache) -> None:
        self._keys = keys

    async def verify(self, arrival: Arrival) -> Verified:
        """Return which key signed a delivery; raises `Refused`, or `Transient` when a vendor's key is out of reach."""
        try:
            return _verify(arrival)
        except KeyNeeded:
            return await self._with_keys(arrival, lambda: _verify(arrival))

    async def handshake(self, arrival: Arrival) -> HandshakeReply | None:
        """Return the reply to a handshake, None for a delivery; raises as `verify` does."""
        return await self._with_keys(arrival, lambda: _handshake(arrival))

    async def _with_keys(self, arrival: Arrival, check: Callable[[], T]) -> T:
        """Run a pure check, fetching the keys that it asks for; they stay on the arrival's request."""
        for _ in range(MAX_KEYS):
            try:
                return check()
            except KeyNeeded as needed:
                key = await self._keys.get(needed.request)
                arrival.request = replace(arrival.request, keys={**arrival.request.keys, needed.request.name: key})
        raise Refused("key_unavailable")


def _verify(arrival: Arrival) -> Verified:
    endpoint, now = arrival.endpoint, arrival.received_at
    return endpoint.verifier.verify(arrival.request, endpoint.secrets_at(now), now)


def _handshake(arrival: Arrival) -> HandshakeReply | None:
    endpoint, now = arrival.endpoint, arrival.received_at
    return endpoint.provider.handshake(arrival.request, endpoint.secrets_at(now), endpoint.configured.options, now)
