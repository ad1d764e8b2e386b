"""Stripe's refunds and balance as its API reference describes them (https://docs.stripe.com/api).

Must never store or echo an API key.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Final

from sandbox.behaviours.base import Answer, Behaviour, Call, Remembered, bearer_account, same
from sandbox.world import World

SLUG: Final = "stripe"
_REASONS: Final = {"duplicate", "fraudulent", "requested_by_customer"}
_METADATA: Final = re.compile(r"^metadata\[([^\]]{1,40})\]$")
_TYPES: Final = {409: "idempotency_error", 429: "rate_limit_error"}
_SERVER_ERROR: Final = 500
_DEFAULT_PAGE, _MAX_PAGE = 10, 100


class Stripe:
    """Refunds of charges and payment intents, by account."""

    operations: frozenset[str] = frozenset({"payment.refund"})

    def __init__(self, world: World) -> None:
        self._world = world
        self._refunds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._answers: dict[tuple[str, str], Remembered] = {}

    def handle(self, call: Call) -> Answer:
        """Answer a call; a repeated `Idempotency-Key` gets the first answer again."""
        account = bearer_account(call)
        if account is None:
            return self._error(401, "You did not provide an API key.")
        if (call.method, call.path) == ("GET", "/v1/balance"):
            return Answer(200, {"object": "balance", "available": [], "pending": [], "livemode": False})
        if call.path != "/v1/refunds":
            return self._error(404, f"Unrecognized request URL ({call.method}: {call.path}).")
        if call.method == "GET":
            return self._list(account, call)
        if call.method != "POST":
            return self._error(405, f"{call.method} is not allowed here.")
        return self._once(account, call)

    def failure(self, status: int, detail: str) -> Any:
        """Return Stripe's error object."""
        kind = "api_error" if status >= _SERVER_ERROR else _TYPES.get(status, "invalid_request_error")
        return {"error": {"message": detail, "type": kind}}

    def _once(self, account: str, call: Call) -> Answer:
        key = call.headers.get("idempotency-key", "")
        if not key:
            return self._refund(account, call, "")
        known = self._answers.get((account, key))
        if known is None:
            known = Remembered(call.fingerprint, self._refund(account, call, key))
            self._answers[account, key] = known
            return known.answer
        if not same(known.fingerprint, call.fingerprint):
            text = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            return Answer(400, {"error": {"message": text, "type": "idempotency_error"}})
        return Answer(known.answer.status, known.answer.body, {"Idempotent-Replayed": "true"})

    def _refund(self, account: str, call: Call, key: str) -> Answer:
        form = call.form
        target = next((name for name in ("payment_intent", "charge") if form.get(name)), "")
        problem = self._malformed(form, target)
        if problem is not None:
            return problem
        payment, asked = form[target], int(form.get("amount", "0"))
        refunded = sum(one["amount"] for one in self._refunds[account] if one[target] == payment)
        whole = self._world.payment_amount(SLUG, payment, asked)
        if whole == 0:
            return self._error(404, f"No such {target}: '{payment}'", "resource_missing")
        left = whole - refunded
        if left <= 0:
            return self._error(400, f"Charge {payment} has already been refunded.", "charge_already_refunded")
        amount = asked or left
        if amount > left:
            return self._error(400, f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})")
        refund = self._created(account, form, target, amount)
        detail = {"amount": amount, "metadata": refund["metadata"]}
        self._world.apply(SLUG, "payment.refund", account=account, subject=payment, ref=refund["id"], key=key, **detail)
        return Answer(200, refund)

    def _malformed(self, form: dict[str, str], target: str) -> Answer | None:
        if not target:
            return self._error(400, "One of the following params should be provided: payment_intent or charge.")
        if form.get("reason") and form["reason"] not in _REASONS:
            return self._error(
                400, f"Invalid reason: must be one of {', '.join(sorted(_REASONS))}", "parameter_invalid"
            )
        asked = form.get("amount")
        if asked is not None and not (asked.isdigit() and int(asked) > 0):
            return self._error(400, f"Invalid integer: {asked[:20]}", "parameter_invalid_integer")
        return None

    def _created(self, account: str, form: dict[str, str], target: str, amount: int) -> dict[str, Any]:
        now = self._world.clock.now()
        number = len(self._refunds[account]) + 1
        refund: dict[str, Any] = {
            "id": f"re_{account}{number:06d}",
            "object": "refund",
            "amount": amount,
            "balance_transaction": None,
            "charge": form.get("charge"),
            "created": int(now.timestamp()),
            "currency": "eur",
            "metadata": {found[1]: value for name, value in form.items() if (found := _METADATA.match(name))},
            "payment_intent": form.get("payment_intent"),
            "reason": form.get("reason"),
            "status": "succeeded",
        }
        refund[target] = form[target]
        self._refunds[account].append(refund)
        return refund

    def _list(self, account: str, call: Call) -> Answer:
        wanted = {name: call.query[name] for name in ("payment_intent", "charge") if name in call.query}
        limit = call.query.get("limit", str(_DEFAULT_PAGE))
        if not (limit.isdigit() and 1 <= int(limit) <= _MAX_PAGE):
            return self._error(400, "Invalid limit: must be between 1 and 100", "parameter_invalid_integer")
        found = [
            one for one in reversed(self._refunds[account]) if all(one[name] == value for name, value in wanted.items())
        ]
        page = found[: int(limit)]
        return Answer(200, {"object": "list", "url": "/v1/refunds", "has_more": len(found) > len(page), "data": page})

    def _error(self, status: int, message: str, code: str = "") -> Answer:
        body = self.failure(status, message)
        if code:
            body["error"]["code"] = code
        return Answer(status, body)


def build(world: World) -> Behaviour:
    """Return the behaviour."""
    return Stripe(world)
