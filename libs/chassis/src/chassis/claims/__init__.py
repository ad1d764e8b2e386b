"""The claim-check store: bodies too large for a Kafka record, kept under their SHA-256 and named by reference."""

from chassis.claims.opening import open_claims
from chassis.claims.store import ClaimStore, event_bytes

__all__ = ["ClaimStore", "event_bytes", "open_claims"]
