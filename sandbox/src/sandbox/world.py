"""What the simulated providers share: the ledger of effects and the payments that they told us about.

The ledger is the oracle for "nothing is done twice", so an effect is written exactly where it is applied. Must never
hold a credential: an account is known by its public name or by a digest.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from chassis.clock import Clock
from chassis.telemetry.metrics import counter
from sandbox.metrics import EFFECTS


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that a provider did.

    `ref` is the provider's id of it, `subject` what it was done to (a payment, a recipient), `key` the caller's
    idempotency key where the API has one. `detail` holds what else an observer may want to compare.
    """

    seq: int
    provider: str
    operation: str
    account: str
    subject: str
    ref: str
    key: str
    at: datetime
    detail: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the effect for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SentEvent:
    """A webhook that a provider made, whether or not it arrived: what its log of events tells."""

    provider: str
    at: datetime
    body: bytes


class World:
    """State of all simulated providers, in memory; it ends with the process."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.effects: list[Effect] = []
        self.events: list[SentEvent] = []
        self._amounts: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def apply(
        self, provider: str, operation: str, *, account: str, subject: str, ref: str, key: str = "", **detail: Any
    ) -> None:
        """Write down an effect in the moment it is applied."""
        counter(EFFECTS).labels(provider, operation).inc()
        at = self.clock.now()
        number = len(self.effects) + 1
        self.effects.append(Effect(number, provider, operation, account, subject, ref, key, at, detail))

    def note_event(self, provider: str, body: bytes) -> None:
        """Write a webhook into its provider's log of events."""
        self.events.append(SentEvent(provider, self.clock.now(), body))

    def learn_payment(self, provider: str, payment: str, amount: int) -> None:
        """Remember the amount of a payment that a webhook of this provider spoke of, in minor units."""
        known = self._amounts[provider]
        known[payment] = max(known.get(payment, 0), amount)

    def payment_amount(self, provider: str, payment: str, asked: int) -> int:
        """Return what can be refunded of a payment at most, in minor units.

        A payment that no webhook spoke of is taken to be as large as the first refund `asked` for it, so that a second
        one is refused as it would be for a real payment; 0 when neither says anything.
        """
        known = self._amounts[provider]
        if payment not in known and asked:
            known[payment] = asked
        return known.get(payment, 0)
