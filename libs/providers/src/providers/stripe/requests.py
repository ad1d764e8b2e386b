"""Stripe's API as requests and answers.

Must never hold a credential: the registry adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from contracts.errors import Invalid, Transient
from contracts.operations.money import PaymentRefund
from providers.money import currency_of
from providers.reading import at, first_text
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, Operations

# https://docs.stripe.com/api/refunds/create: any other reason is refused, so it goes into the metadata.
_REASONS: Final = {"duplicate", "fraudulent", "requested_by_customer"}
# Another request with the same key, or on the same object, is still running.
_BUSY: Final = {"idempotency_key_in_use", "lock_timeout"}
# A payment has far fewer refunds than one page of the greatest size.
_PAGE: Final = 100


class Refund:
    """`payment.refund`: POST /v1/refunds."""

    def build(self, arguments: PaymentRefund, account: Account) -> HttpRequest:  # noqa: ARG002 (protocol)
        """Return the refund request; the effect key is sent as idempotency key and kept in the metadata."""
        form = {
            _target(arguments): arguments.payment_external_id,
            "amount": str(arguments.amount),
            "metadata[patchbay_effect]": arguments.effect_key,
        }
        if arguments.reason in _REASONS:
            form["reason"] = arguments.reason
        else:
            form["metadata[reason]"] = arguments.reason
        headers = {"Idempotency-Key": arguments.effect_key}
        return HttpRequest(method="POST", path="/v1/refunds", headers=headers, form=form)

    def parse(self, arguments: PaymentRefund, response: HttpResponse) -> Applied | Declined:  # noqa: ARG002 (protocol)
        """Read the refund, or Stripe's error code; raises `Transient` while an equal request is running."""
        if response.status < 300:  # noqa: PLR2004 (2xx)
            if at(response.json, "/status") in {"failed", "canceled"}:
                reason = first_text(response.json, ("/failure_reason", "/status")) or "failed"
                return Declined(code=reason, detail="the refund was not carried out")
            return _applied(response.json)
        code = first_text(response.json, ("/error/code", "/error/type"))
        if code is None:
            raise Invalid("unreadable_answer", f"status {response.status} without an error object")
        if code in _BUSY:
            raise Transient(code, "a request with the same key is still running")
        return Declined(code=code, detail=first_text(response.json, ("/error/message",)) or code)

    def read_back(self, arguments: PaymentRefund, account: Account) -> HttpRequest:  # noqa: ARG002 (protocol)
        """Return the list of the payment's refunds."""
        query = {_target(arguments): arguments.payment_external_id, "limit": str(_PAGE)}
        return HttpRequest(method="GET", path="/v1/refunds", query=query)

    def parse_read_back(self, arguments: PaymentRefund, response: HttpResponse) -> Applied | None:
        """Return the refund whose metadata holds the effect key; a failed one does not count."""
        refunds = at(response.json, "/data")
        if not isinstance(refunds, list):
            raise Invalid("unreadable_answer", "the list of refunds has no data", field="/data")
        for refund in refunds:
            ours = at(refund, "/metadata/patchbay_effect") == arguments.effect_key
            if ours and at(refund, "/status") not in {"failed", "canceled"}:
                return _applied(refund)
        if at(response.json, "/has_more") is True:
            raise Transient("read_back_incomplete", f"more than {_PAGE} refunds of one payment")
        return None


def _target(arguments: PaymentRefund) -> str:
    return "payment_intent" if arguments.payment_external_id.startswith("pi_") else "charge"


def _applied(refund: object) -> Applied:
    found, amount = first_text(refund, ("/id",)), at(refund, "/amount")
    if found is None or not isinstance(amount, int):
        raise Invalid("unreadable_answer", "a refund has an id and an amount", field="/id")
    result: dict[str, str | int] = {"status": first_text(refund, ("/status",)) or "", "amount": amount}
    currency = currency_of(at(refund, "/currency"))
    return Applied(provider_ref=found, result=result | ({"currency": currency} if currency else {}))


OPERATIONS: Final[Mapping[str, Operations]] = {"payment.refund": Refund()}
