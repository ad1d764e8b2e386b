"""The chapter of the customer whose age is checked, and of the audit log that remembers."""

from __future__ import annotations

from typing import Any

from patchbay.demo.story import Missing, wait_for
from patchbay.demo.webhooks import Stage


def verify_age(stage: Stage) -> None:
    """Check a customer's age twice (the second time from memory), read the status, and verify the audit chain."""
    stage.story.chapter("A customer proves to be of age, and nothing is kept that need not be")
    claim = {
        "tenant": stage.tenant,
        "customerId": "customer-1",
        "fullName": "Jenny Rosen",
        "dateOfBirth": "1990-05-17",
        "idNumberLast4": "1234",
        "state": "CA",
    }
    first = stage.platform.post("VERIFICATION_URL", "/v1/age-verification/verify", claim)
    if not first["verified"]:
        raise Missing("verification", f"the check said {first}")
    again = stage.platform.post("VERIFICATION_URL", "/v1/age-verification/verify", claim)
    status = stage.platform.get("VERIFICATION_URL", "/v1/age-verification/status/customer-1", tenant=stage.tenant)
    if not status["verified"] or any(word in str(status) for word in ("1990", "Jenny", "1234")):
        raise Missing("verification", f"the status is {status}")
    told = (
        f"verified by {first['method']}, then by {again['method']}; passed {status['thresholds']}, no birth date kept"
    )
    stage.story.seen("verification", told)


def audit(stage: Stage) -> None:
    """Wait until this run's connections are in the audit log, then verify the whole chain."""

    def recorded() -> list[Any] | None:
        query = {"tenant": stage.tenant, "action": "connection.created", "limit": 200}
        found: list[Any] = stage.platform.get("VERIFICATION_URL", "/v1/audit", **query)["items"]
        return found if len(found) >= len(stage.actors) else None

    found = wait_for("audit", f"{len(stage.actors)} entries about new connections", recorded)
    chain = stage.platform.get("VERIFICATION_URL", "/v1/audit/verify")
    if not chain["intact"]:
        raise Missing("audit", f"the chain is broken at {chain['firstBroken']}")
    stage.story.seen("audit", f"{len(found)} entries of this run; the chain of {chain['entries']} is intact")
