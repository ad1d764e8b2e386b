"""Twilio's messaging API as requests and answers.

Must never hold a credential (the registry adds it), nor pass on Twilio's own error text, which quotes phone numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from contracts.errors import Invalid
from contracts.operations.people import MessageSend
from providers.reading import at, first_text
from providers.sdk import Account, Applied, Declined, HttpRequest, HttpResponse, Operations


class Send:
    """`message.send`: POST to the account's Messages. Twilio takes no idempotency key; a reference is read back."""

    def build(self, arguments: MessageSend, account: Account) -> HttpRequest:
        """Return the message request; raises `Invalid` (`missing_option`) without a sender."""
        form = {"To": arguments.recipient, "Body": arguments.text}
        if service := account.options.get("messaging_service_sid"):
            form["MessagingServiceSid"] = service
        elif number := account.options.get("from_number"):
            form["From"] = number
        else:
            detail = "set from_number or messaging_service_sid"
            raise Invalid("missing_option", detail, field="options.from_number")
        return HttpRequest(method="POST", path=_messages(account), form=form)

    def parse(self, arguments: MessageSend, response: HttpResponse) -> Applied | Declined:  # noqa: ARG002 (protocol)
        """Read the message, or Twilio's error number."""
        if response.status >= 400:  # noqa: PLR2004 (4xx)
            code = at(response.json, "/code")
            if not isinstance(code, int):
                raise Invalid("unreadable_answer", f"status {response.status} without an error code", field="/code")
            return Declined(str(code), f"see https://www.twilio.com/docs/api/errors/{code}")
        status = first_text(response.json, ("/status",)) or ""
        if status in {"failed", "undelivered"}:
            return Declined(str(at(response.json, "/error_code") or status), "the message was not sent")
        return _applied(response.json)

    def read_back(self, arguments: MessageSend, account: Account) -> HttpRequest:
        """Return the latest messages to the recipient."""
        return HttpRequest(method="GET", path=_messages(account), query={"To": arguments.recipient})

    def parse_read_back(self, arguments: MessageSend, response: HttpResponse) -> Applied | None:
        """Return the message whose text holds the reference, whatever became of it: it must not be sent twice."""
        messages = at(response.json, "/messages")
        if not isinstance(messages, list):
            raise Invalid("unreadable_answer", "the list has no messages", field="/messages")
        for message in messages:
            if arguments.reference in (first_text(message, ("/body",)) or ""):
                return _applied(message)
        return None


def _messages(account: Account) -> str:
    return f"/2010-04-01/Accounts/{quote(account.account_ref, safe='')}/Messages.json"


def _applied(message: object) -> Applied:
    sid = first_text(message, ("/sid",))
    if sid is None:
        raise Invalid("unreadable_answer", "a message has a sid", field="/sid")
    return Applied(provider_ref=sid, result={"status": first_text(message, ("/status",)) or ""})


OPERATIONS: Final[Mapping[str, Operations]] = {"message.send": Send()}
