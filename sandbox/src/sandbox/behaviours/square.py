"""Square's refunds as its API reference describes them (https://developer.squareup.com/reference/square/refunds-api).

Must never store or echo an access token.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from providers.reading import at
from sandbox.behaviours.base import Answer, Behaviour, Call, Remembered, bearer_account, same
from sandbox.world import World

SLUG: Final = "square"
_KEY_LENGTH: Final = 45
_SERVER_ERROR: Final = 500
_CATEGORIES: Final = {401: "AUTHENTICATION_ERROR", 429: "RATE_LIMIT_ERROR"}
_CODES: Final = {401: "UNAUTHORIZED", 404: "NOT_FOUND", 429: "RATE_LIMITED", 503: "SERVICE_UNAVAILABLE"}


class Square:
    """Refunds of payments, by seller."""

    operations: frozenset[str] = frozenset({"payment.refund"})

    def __init__(self, world: World) -> None:
        self._world = world
        self._refunds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._answers: dict[tuple[str, str], Remembered] = {}

    def handle(self, call: Call) -> Answer:
        """Answer a call; a repeated `idempotency_key` gets the first answer again."""
        account = bearer_account(call)
        if account is None:
            return Answer(401, self.failure(401, "This request could not be authorized."))
        if call.method == "GET" and call.path == "/v2/locations":
            return Answer(200, {"locations": [{"id": "S8GWPATCHBAY", "name": "Sandbox", "status": "ACTIVE"}]})
        if call.method == "GET" and call.path.startswith("/v2/refunds/"):
            return self._show(account, call.path.removeprefix("/v2/refunds/"))
        if (call.method, call.path) == ("POST", "/v2/refunds"):
            return self._once(account, call)
        return Answer(404, self.failure(404, "API endpoint for URL path is not found."))

    def failure(self, status: int, detail: str) -> Any:
        """Return Square's list of errors."""
        category = "API_ERROR" if status >= _SERVER_ERROR else _CATEGORIES.get(status, "INVALID_REQUEST_ERROR")
        code = _CODES.get(status, "INTERNAL_SERVER_ERROR" if status >= _SERVER_ERROR else "BAD_REQUEST")
        return {"errors": [{"category": category, "code": code, "detail": detail}]}

    def _once(self, account: str, call: Call) -> Answer:
        key = at(call.json, "/idempotency_key")
        if not isinstance(key, str) or not 1 <= len(key) <= _KEY_LENGTH:
            return _refused("VALUE_TOO_LONG" if key else "MISSING_REQUIRED_PARAMETER", "idempotency_key")
        known = self._answers.get((account, key))
        if known is None:
            known = Remembered(call.fingerprint, self._refund(account, call.json, key))
            self._answers[account, key] = known
        elif not same(known.fingerprint, call.fingerprint):
            return _refused("IDEMPOTENCY_KEY_REUSED", "The idempotency key can only be retried with the same request.")
        return known.answer

    def _refund(self, account: str, body: Any, key: str) -> Answer:
        payment, money = at(body, "/payment_id"), at(body, "/amount_money")
        amount, currency = at(money, "/amount"), at(money, "/currency")
        if not isinstance(payment, str) or not payment:
            return _refused("MISSING_REQUIRED_PARAMETER", "payment_id")
        if not isinstance(amount, int) or not isinstance(currency, str) or amount <= 0:
            return _refused("MISSING_REQUIRED_PARAMETER", "amount_money")
        known = self._refunds[account]
        refunded = sum(one["amount_money"]["amount"] for one in known if one["payment_id"] == payment)
        if refunded + amount > self._world.payment_amount(SLUG, payment, amount):
            text = "The requested refund amount exceeds the amount available to refund."
            return _refused("REFUND_AMOUNT_INVALID", text, "REFUND_ERROR")
        at_ = self._world.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        refund: dict[str, Any] = {
            "id": f"{payment}_{account}{len(known) + 1:06d}",
            "amount_money": {"amount": amount, "currency": currency},
            "created_at": at_,
            "location_id": "S8GWPATCHBAY",
            "payment_id": payment,
            "reason": at(body, "/reason") or "",
            "status": "PENDING",
            "updated_at": at_,
        }
        known.append(refund)
        self._world.apply(
            SLUG, "payment.refund", account=account, subject=payment, ref=refund["id"], key=key, amount=amount
        )
        return Answer(200, {"refund": refund})

    def _show(self, account: str, refund_id: str) -> Answer:
        found = next((one for one in self._refunds[account] if one["id"] == refund_id), None)
        return Answer(200, {"refund": found}) if found else Answer(404, self.failure(404, "Could not find the refund."))


def _refused(code: str, detail: str, category: str = "INVALID_REQUEST_ERROR") -> Answer:
    return Answer(400, {"errors": [{"category": category, "code": code, "detail": detail}]})


def build(world: World) -> Behaviour:
    """Return the behaviour."""
    return Square(world)
