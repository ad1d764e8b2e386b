"""Providers that do not exist, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import Invalid, Transient
from providers.manifest import Manifest
from providers.provider import Provider
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, PaymentSnapshot
from sync_worker.endpoints.configuration import Limits

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TENANT = "t1"
LIMITS = Limits(max_body_bytes=1_000_000, max_per_s=1000.0)
LIFETIME = {"idempotency_lifetime_h": {"description": "hours that a key is known", "default": "", "pattern": "|[0-9]+"}}


class Operations:
    """One provider's operations: `id` is the effect's name, `code` a refusal; other words test the readers' errors."""

    def build(self, operation: Any, account: Account) -> HttpRequest:
        if account.account_ref == "no-sender":
            raise Invalid("missing_option", "no sender is set", field="options.sender")
        body = {
            name: str(getattr(operation, name)) for name in ("amount", "recipient", "text") if hasattr(operation, name)
        }
        return HttpRequest("POST", "/effects", headers={"Idempotency-Key": operation.effect_key}, json=body)

    def parse(self, operation: Any, response: HttpResponse) -> Applied | Declined:  # noqa: ARG002 (protocol)
        if response.status >= 400:
            return Declined(response.json["code"], "no")
        content = {"content": response.json["content"]} if "content" in response.json else {}
        return Applied(response.json["id"], {"status": "done", **content})

    def read_back(self, operation: Any, account: Account) -> HttpRequest | None:
        return None if account.account_ref == "mute" else HttpRequest("GET", f"/effects/{operation.effect_key}")

    def parse_read_back(self, operation: Any, response: HttpResponse) -> Applied | None:  # noqa: ARG002 (protocol)
        if "more" in response.json:
            raise Transient("read_back_incomplete", "there is more")
        if "id" not in response.json:
            raise Invalid("unreadable_answer", "no id")
        return Applied(response.json["id"]) if response.json["id"] else None


class FakeProvider(Provider):
    """A provider of which only the manifest's shape matters."""

    def __init__(self, slug: str, *, read_back: bool, keyed: bool, operation: str, capability: str) -> None:
        idempotency = {"kind": "header", "name": "Idempotency-Key"} if keyed else {"kind": "none"}
        signature = {"scheme": "hmac", "header": "X-Signature", "encoding": "hex", "template": "{body}"}
        identity = {"schema": 1, "slug": slug, "name": slug, "category": "test", "docs": "https://docs.test/"}
        spec = {"name": operation, "class": "pinned", "source": "https://docs.test/", "code": True, "timeout_s": 10}
        spec |= {"look_up_by_code": read_back}
        api = {"base_url": "https://api.test", "sandbox_base_url": "https://sandbox.test"}
        document: dict[str, Any] = identity | {
            "owners": ["@tests"],
            "tier": "bronze",
            "capabilities": [capability],
            "secrets": {
                "webhook": {"description": "signing secret", "use": ["webhook"], "required": True},
                "api_key": {"description": "key of the API", "use": ["api"], "required": False},
            },
            "options": LIFETIME,
            "webhook": {"signature": signature, "event_id": ["body:/id"], "event_type": ["body:/type"]},
            "api": api | {"auth": {"api_key": {"kind": "bearer", "secret": "api_key"}}},
            "operations": [spec | {"idempotency": idempotency}],
            "health": {"probe": {"path": "/probe/{account_ref}", "timeout_ms": 500}},
        }
        super().__init__(Path("/nowhere"), Manifest.model_validate(document))

    def operation_table(self) -> Mapping[str, Any]:
        return {one.name: Operations() for one in self.manifest.operations}

    def normalise(self, event_type: str, data: bytes) -> list[PaymentSnapshot]:
        body = json.loads(data)
        if event_type != "payment":
            return []
        if "external_id" not in body:
            raise Invalid("unreadable_payload", "no external_id")
        return [snapshot(**body)]


PAYER = FakeProvider("payer", read_back=True, keyed=True, operation="payment.refund", capability="payments")
MUTE = FakeProvider("mutepay", read_back=False, keyed=True, operation="payment.refund", capability="payments")
TEXTER = FakeProvider("texter", read_back=True, keyed=False, operation="message.send", capability="messaging.sms")
OTHER = FakeProvider("othertext", read_back=True, keyed=False, operation="message.send", capability="messaging.sms")


def snapshot(external_id: str = "p1", **known: Any) -> PaymentSnapshot:
    """Return a snapshot of a succeeded payment of 1000, but for what is given."""
    defaults: dict[str, Any] = {"status": "succeeded", "amount": 1000, "amount_refunded": None, "currency": "EUR"}
    return PaymentSnapshot(external_id=external_id, occurred_at=START, **(defaults | {"fence": 10} | known))


def answered(status: int, document: Any = None, retry_after_s: float | None = None) -> HttpResponse:
    """Return an answer with this status."""
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return HttpResponse(status, headers, document)
