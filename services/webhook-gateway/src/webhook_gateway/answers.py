"""What a sender is told: a status, perhaps a body, perhaps headers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from chassis.http.rsgi import HeaderList
from providers.manifest import EventAnswer, Webhook

# For an outage of ours; senders wait longer by themselves.
RETRY_AFTER_S: Final = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. An empty body is what providers' onboarding checks want of a refusal."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def header_list(self) -> HeaderList:
        """Return the headers as granian takes them."""
        return list(self.headers)


def accepted(webhook: Webhook) -> Answer:
    """Return the answer that a provider takes for a yes."""
    body = webhook.success_body.encode()
    return Answer(webhook.success_status, body, (("content-type", webhook.success_type),) if body else ())


def accepted_as(answer: EventAnswer) -> Answer:
    """Return the answer that one kind of event wants for a yes."""
    body = json.dumps(answer.json_body, separators=(",", ":")).encode()
    return Answer(answer.status, body, (("content-type", "application/json"),))


def problem(status: int, code: str, detail: str, *headers: tuple[str, str]) -> Answer:
    """Return an error as problem details (RFC 9457) with a stable `code`."""
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail}
    return Answer(status, json.dumps(body).encode(), (("content-type", "application/problem+json"), *headers))


def unavailable(detail: str, retry_after_s: float = RETRY_AFTER_S) -> Answer:
    """Return 503: a fault of ours, never a 4xx, which a sender may take for final."""
    return problem(503, "unavailable", detail, ("retry-after", str(max(1, round(retry_after_s)))))


def too_many(code: str, detail: str, retry_after_s: float) -> Answer:
    """Return 429 for a sender that comes back later."""
    return problem(429, code, detail, ("retry-after", str(max(1, round(retry_after_s)))))
