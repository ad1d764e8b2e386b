"""What the service asks of an age check provider, and what it gets; must never hold more than one request needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import Literal, Protocol
from uuid import UUID

# The normalised outcomes of all providers (verification.md §2.1).
CheckOutcome = Literal[
    "passed",
    "underage",
    "no_match",
    "mismatch",
    "uncertain",
    "needs_document",
    "expired_document",
    "fraud_suspected",
    "provider_error",
    "abandoned",
]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose age is to be checked. Personal data: in memory for one request, never stored, logged or published."""

    full_name: str = field(repr=False)
    date_of_birth: date = field(repr=False)
    id_last4: str = field(repr=False)
    state: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A provider's answer. `thresholds` are the ages that are proven; `evidence_ref` is the provider's check id."""

    outcome: CheckOutcome
    evidence_ref: str
    thresholds: tuple[int, ...] = ()


class AgeCheck(Protocol):
    """One provider. `name` is the `method` that callers see, `assurance` how far its word goes."""

    name: str
    assurance: str

    async def check(self, identity: Identity, reference: UUID) -> CheckResult:
        """Ask the provider; `reference` names this check at both sides.

        A fault of the provider is the outcome `provider_error`, or `Transient`; it never counts against the person.
        """
        ...
