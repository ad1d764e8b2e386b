"""Square's API as requests and answers.

Must never hold a credential: the registry adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from contracts.errors import Invalid
from providers.reading import at, first_text, fitting_key
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, Operations, RefundOperation

_KEY_LENGTH: Final = 45


class Refund:
    """`payment.refund`: POST /v2/refunds. A refund does not show its key, so there is no read-back."""

    def build(self, operation: RefundOperation, account: Account) -> HttpRequest:  # noqa: ARG002 (protocol)
        """Return the refund request; the effect key is hashed to the 45 characters that Square takes."""
        body = {
            "idempotency_key": fitting_key(operation.effect_key, _KEY_LENGTH),
            "payment_id": operation.payment_external_id,
            "amount_money": {"amount": operation.amount, "currency": operation.currency},
            "reason": operation.reason,
        }
        return HttpRequest(method="POST", path="/v2/refunds", json=body)

    def parse(self, response: HttpResponse) -> Applied | Declined:
        """Read the refund, or the code of Square's first error."""
        if response.status >= 400:  # noqa: PLR2004 (4xx)
            code = first_text(response.json, ("/errors/0/code",))
            if code is None:
                raise Invalid("unreadable_answer", f"status {response.status} without errors")
            return Declined(code.lower(), first_text(response.json, ("/errors/0/detail",)) or code.lower())
        refund = at(response.json, "/refund")
        found, state = first_text(refund, ("/id",)), first_text(refund, ("/status",)) or ""
        amount = at(refund, "/amount_money/amount")
        if found is None or not isinstance(amount, int):
            raise Invalid("unreadable_answer", "a refund has an id and an amount", field="/refund/id")
        if state in {"REJECTED", "FAILED"}:
            return Declined(f"refund_{state.lower()}", "the refund was not carried out")
        return Applied(provider_ref=found, result={"status": state.lower(), "amount": amount})

    def read_back(self, operation: RefundOperation, account: Account) -> None:  # noqa: ARG002 (protocol)
        """Return None: the API has no documented way to find a refund by its idempotency key."""
        return

    def parse_read_back(self, operation: RefundOperation, response: HttpResponse) -> None:  # noqa: ARG002 (protocol)
        """Return None, see `read_back`."""
        return


OPERATIONS: Final[Mapping[str, Operations]] = {"payment.refund": Refund()}
